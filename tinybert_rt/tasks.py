"""What a model's head answers, and what there is to see inside the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, overload

from tinybert_rt.engine.calls import checked_ids, require_head, run_ids, run_inside, run_masked
from tinybert_rt.engine.texts import Text, text_iterator
from tinybert_rt.format.layout import HEADS
from tinybert_rt.opened import OpenedModel, Progress
from tinybert_rt.vectors import Classified, Encoded, classified

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tinybert_rt.filling import Filled
    from tinybert_rt.inside import Inside
    from tinybert_rt.reading import Answer, Choice, Entity, Replaced


_MASKED = HEADS["masked_token"]


class Tasks(OpenedModel):
    """The part of `Model` that uses the head of its file, or shows what happens on the way."""

    def classify(
        self,
        texts: Iterable[Text],
        *,
        truncation: str | None = None,
        max_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> list[Classified]:
        """The label of each text, by the model's classification head.

        Args:
            texts, truncation, max_tokens, progress: as of `encode`.

        Returns one `Classified` per text: the likeliest label, its probability, and the probability of every label. Probabilities are
        softmax over the labels, or, of a head whose labels do not exclude each other, the logistic function of each; a head with
        a number for a result (regression) has that number.

        Raises MissingHeadError where the model has no such head, and what `encode` raises.
        """
        groups = self.stream_scores(texts, truncation="truncate" if truncation is None else truncation, max_tokens=max_tokens)
        return classified(self._collected(groups, texts, truncation, max_tokens, progress).vectors, self.labels)

    def stream_scores(self, texts: Iterable[Text], *, truncation: str = "truncate", max_tokens: int | None = None) -> Iterator[Encoded]:
        """As `classify`, up to 1,024 texts at a time, in bounded memory: the groups' vectors are float32 (n, labels).

        Raises MissingHeadError where the model has no head that classifies texts.
        """
        require_head(self._model, self.path, "sequence_classification")
        return self._stream(text_iterator(texts), len(self.labels), *self._limits(truncation, max_tokens), scores=True)

    def choose(self, prompt: str, choices: Sequence[str]) -> Choice:
        """The choice that fits a prompt best, by a multiple choice head: index, probability, and that of every choice.

        Raises MissingHeadError where the model has no head with one number for a text, InvalidTextError, TextTooLongError.
        """
        from tinybert_rt import reading

        require_head(self._model, self.path, "sequence_classification")
        return reading.choose(self, prompt, choices)

    def tag(self, texts: Iterable[str]) -> list[list[Entity]]:
        """The entities of each text, by the model's token classification head; texts of any length.

        A word takes the label of its first token; words "B-X", "I-X", "I-X" are one entity X, and a label without such a prefix stands for
        a word alone. Text longer than the model takes goes through in windows that overlap by a quarter.

        Raises MissingHeadError where the model has no such head, InvalidTextError.
        """
        from tinybert_rt import reading

        require_head(self._model, self.path, "token_classification")
        return reading.tag(self, texts)

    def answer(
        self, question: str, context: str, *, top: int = 1, max_answer_tokens: int = 15, stride: int = 128, no_answer: bool = False
    ) -> list[Answer]:
        """The places of a context that answer a question, by the model's question answering head, best first.

        Args:
            question, context: texts; a context of any length goes through in windows.
            stride: how many tokens these share, at most half of their room.
            top: how many answers at most.
            max_answer_tokens: an answer has at most so many tokens.
            no_answer: "" may be an answer, for a model that was trained on questions without one (SQuAD 2.0).

        Raises MissingHeadError where the model has no such head, InvalidTextError, InvalidArgumentError.
        """
        from tinybert_rt import reading

        require_head(self._model, self.path, "question_answering")
        return reading.answer(self, question, context, top, max_answer_tokens, stride, no_answer)

    def fill_mask(self, text: str, *, top: int = 5) -> list[list[Filled]]:
        """What stands in the places of a text's mask tokens, by a model that predicts masked tokens: a list for each, likeliest first.

        Args:
            text: with the model's own mask token, "[MASK]" or "<mask>", where something is to be filled in.
            top: how many pieces of the vocabulary for each.

        Raises MissingHeadError where the model has no such head, InvalidTextError, InvalidArgumentError where there is no mask token,
        TextTooLongError: a mask token could be cut off.
        """
        from tinybert_rt import filling

        require_head(self._model, self.path, "masked_token")
        return filling.fill_mask(self, text, top)

    def detect_replaced(self, text: str) -> list[Replaced]:
        """The words of a text, each with the probability that it does not belong there, by a discriminator (ELECTRA); of any length.

        A word has the largest probability of its tokens.

        Raises MissingHeadError where the model has no such head, InvalidTextError.
        """
        from tinybert_rt import reading

        require_head(self._model, self.path, "token_classification")
        return reading.detect_replaced(self, text)

    def logits(self, ids: NDArray[np.int32], offsets: NDArray[np.int64], types: NDArray[np.uint8] | None = None) -> NDArray[np.float32]:
        """The outputs of the model's head for texts that are tokenized already.

        Args:
            ids, offsets, types: as of `encode_ids`.

        Returns:
            float32 (n, labels) of a head for texts, (total_tokens, labels) of one for tokens; of question answering, the labels are
            "start" and "end". Of a head that predicts masked tokens (mask tokens, vocab_size), in the order of these.
        """
        require_head(self._model, self.path)
        checked = checked_ids(ids, offsets, types)
        if self._model.head == _MASKED:
            return run_masked(self._pool, self._model, *checked, 0)[1]
        return run_ids(self._pool, self._model, *checked, "scores")

    def inspect(self, text: str, pair: str | None = None, *, truncation: str | None = None, max_tokens: int | None = None) -> Inside:
        """Everything that happens to a text, or a pair: its tokens, the hidden states of every layer, all attention probabilities.

        Args:
            text, pair: str. truncation, max_tokens: as of `encode`.

        Raises InvalidTextError, InvalidArgumentError, TextTooLongError, NonFiniteResultError.
        """
        from tinybert_rt import inside

        return inside.inspect(self, text, pair, truncation, max_tokens)

    @overload  # a str is an iterable of str
    def hidden_states(  # type: ignore[overload-overlap]
        self, texts: Text, *, truncation: str | None = None, max_tokens: int | None = None
    ) -> NDArray[np.float32]: ...

    @overload
    def hidden_states(
        self, texts: Iterable[Text], *, truncation: str | None = None, max_tokens: int | None = None
    ) -> list[NDArray[np.float32]]: ...

    def hidden_states(
        self, texts: Text | Iterable[Text], *, truncation: str | None = None, max_tokens: int | None = None
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """The hidden states of all tokens: what the layers start from, and the output of every layer.

        Args:
            texts: a str, or a pair as a tuple of two; or a list or iterator of them. truncation, max_tokens: as of `encode`.

        Returns:
            float32 (layers + 1, tokens, dim), see `Inside`; of several texts, a list of them.
        """
        from tinybert_rt import inside

        return inside.hidden_states(self, texts, truncation, max_tokens)  # type: ignore[no-any-return]

    @overload
    def attentions(  # type: ignore[overload-overlap]
        self, texts: Text, *, truncation: str | None = None, max_tokens: int | None = None
    ) -> NDArray[np.float32]: ...

    @overload
    def attentions(
        self, texts: Iterable[Text], *, truncation: str | None = None, max_tokens: int | None = None
    ) -> list[NDArray[np.float32]]: ...

    def attentions(
        self, texts: Text | Iterable[Text], *, truncation: str | None = None, max_tokens: int | None = None
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """How much each token takes from each, in every layer and head.

        Args:
            texts, truncation, max_tokens: as of `hidden_states`.

        Returns:
            float32 (layers, heads, tokens, tokens), from and to, see `Inside`; of several texts, a list of them.
        """
        from tinybert_rt import inside

        return inside.attentions(self, texts, truncation, max_tokens)  # type: ignore[no-any-return]

    def hidden_states_ids(
        self, ids: NDArray[np.int32], offsets: NDArray[np.int64], types: NDArray[np.uint8] | None = None
    ) -> NDArray[np.float32]:
        """As `hidden_states`, of texts that are tokenized already.

        Args:
            ids, offsets, types: as of `encode_ids`.

        Returns:
            float32 (layers + 1, total_tokens, dim).
        """
        states, _ = run_inside(self._pool, self._model, *checked_ids(ids, offsets, types), layers=True, attentions=False)
        assert states is not None
        return states

    def attentions_ids(
        self, ids: NDArray[np.int32], offsets: NDArray[np.int64], types: NDArray[np.uint8] | None = None
    ) -> list[NDArray[np.float32]]:
        """As `attentions`, of texts that are tokenized already.

        Args:
            ids, offsets, types: as of `encode_ids`.

        Returns:
            Of each text float32 (layers, heads, tokens, tokens).
        """
        _, probabilities = run_inside(self._pool, self._model, *checked_ids(ids, offsets, types), layers=False, attentions=True)
        assert probabilities is not None
        return probabilities
