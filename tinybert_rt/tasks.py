"""What a model's head answers, and what there is to see inside the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, overload

from tinybert_rt.engine.calls import checked_ids, require_head, run_ids, run_inside
from tinybert_rt.engine.texts import Text, text_iterator
from tinybert_rt.opened import OpenedModel, Progress
from tinybert_rt.vectors import Classified, classified

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tinybert_rt.inside import Inside
    from tinybert_rt.reading import Answer, Choice, Entity


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
        require_head(self._model, self.path, "sequence_classification")
        groups = self._stream(
            text_iterator(texts), len(self.labels), *self._limits("truncate" if truncation is None else truncation, max_tokens), scores=True
        )
        return classified(self._collected(groups, texts, truncation, max_tokens, progress).vectors, self.labels)

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
            question, context: texts; a context of any length goes through in windows that share `stride` tokens.
            top: how many answers at most.
            max_answer_tokens: an answer has at most so many tokens.
            no_answer: "" may be an answer, for a model that was trained on questions without one (SQuAD 2.0).

        Raises MissingHeadError where the model has no such head, InvalidTextError, InvalidArgumentError.
        """
        from tinybert_rt import reading

        require_head(self._model, self.path, "question_answering")
        return reading.answer(self, question, context, top, max_answer_tokens, stride, no_answer)

    def logits(self, ids: NDArray[np.int32], offsets: NDArray[np.int64], types: NDArray[np.uint8] | None = None) -> NDArray[np.float32]:
        """The outputs of the model's head for texts that are tokenized already.

        Args:
            ids, offsets, types: as of `encode_ids`.

        Returns:
            float32 (n, labels) of a head for texts, (total_tokens, labels) of one for tokens; of question answering, the labels are
            "start" and "end".
        """
        require_head(self._model, self.path)
        return run_ids(self._pool, self._model, *checked_ids(ids, offsets, types), "scores")

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
