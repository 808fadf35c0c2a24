"""From raw texts to normalised vectors, one class per system; they run inside a worker process.

    Runner(path, tokenizer, threads, isa)    loads the model, and for a peer the tokenizer.json
    info                                     what a reader of the numbers must know
    encode(texts, batch_size)                float32 (texts, hidden), in the texts' order

Peers get what a careful user would write around them: the `tokenizers` package in parallel, texts sorted by their number of tokens,
batches padded to their own longest text with an attention mask, mean pooling over the real tokens. Everything of that is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench import runners
from bench.artefacts import INPUT_NAMES, OUTPUT_NAME
from bench.common import read_anew, timed_burst
from bench.systems import OURS

MAX_TOKENS = 256
TRIALS = 2
HiddenStates = Callable[[np.ndarray, np.ndarray], np.ndarray]


class TextRunner(Protocol):
    """See the module's docstring."""

    info: dict[str, Any]

    def __init__(self, path: Path, tokenizer: Path, threads: int, isa: str | None) -> None: ...

    def encode(self, texts: list[str], batch_size: int) -> np.ndarray: ...


class TextBench:
    """A runner as the measuring process sees it: a batch size is chosen, texts are set, then checked and visited."""

    def __init__(self, runner: type[TextRunner], path: Path, tokenizer: Path, threads: int, isa: str | None):
        read_anew(path)
        self._runner = runner(path, tokenizer, threads, isa)
        self._texts: list[str] = []
        self._batch_size = 1
        self._expected_s = 0.0

    def info(self) -> dict[str, Any]:
        return self._runner.info

    def token_counts(self, texts: list[str]) -> list[int]:
        """Tokens of each text, at most `MAX_TOKENS`; of a runner that can tell."""
        return self._runner.token_counts(texts)  # type: ignore[attr-defined, no-any-return]

    def seconds(self, texts: list[str], batch_size: int) -> float:
        """The fastest of `TRIALS` runs, the first of which also warms up."""
        return min(timed_burst(lambda: self._runner.encode(texts, batch_size), float("inf"))[0] for _ in range(TRIALS))

    def begin(self, texts: list[str], batch_size: int) -> np.ndarray:
        """Set what `visit` times; encode it once, which warms up, and return the vectors."""
        self._texts, self._batch_size = texts, batch_size
        vectors: list[np.ndarray] = []
        [self._expected_s] = timed_burst(lambda: vectors.append(self._encode()), float("inf"))
        return vectors[0]

    def visit(self) -> list[float]:
        return timed_burst(self._encode, self._expected_s)

    def _encode(self) -> np.ndarray:
        return self._runner.encode(self._texts, self._batch_size)


def encode_padded(token_ids: Sequence[Sequence[int]], batch_size: int, hidden_states: HiddenStates) -> np.ndarray:
    """Sentence vectors, float32 (texts, hidden), normalised, by way of padded batches of texts of about the same length.

    hidden_states(ids, mask), both int64 (batch, longest), gives the states of all tokens (batch, longest, hidden).
    """
    order = sorted(range(len(token_ids)), key=lambda index: len(token_ids[index]), reverse=True)
    vectors: dict[int, np.ndarray] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        ids = np.zeros((len(chosen), len(token_ids[chosen[0]])), np.int64)
        mask = np.zeros_like(ids)
        for row, index in enumerate(chosen):
            count = len(token_ids[index])
            ids[row, :count] = token_ids[index]
            mask[row, :count] = 1
        states = hidden_states(ids, mask)
        for row, index in enumerate(chosen):
            vectors[index] = states[row, : len(token_ids[index])].mean(axis=0)
    result = np.stack([vectors[index] for index in range(len(token_ids))])
    return result / np.linalg.norm(result, axis=1, keepdims=True)


class Ours:
    """tinybert_rt through its Python API: texts in, vectors out. It has no batch size."""

    def __init__(self, path: Path, tokenizer: Path, threads: int, isa: str | None):
        import tinybert_rt

        self.model = tinybert_rt.load(str(path), threads=threads, isa=isa)
        self.info = {"isa": self.model.isa, "threads": self.model.threads}

    def encode(self, texts: list[str], batch_size: int) -> np.ndarray:
        return self.model.encode(texts, truncation="truncate", max_tokens=MAX_TOKENS)

    def token_counts(self, texts: list[str]) -> list[int]:
        return [len(self.model.tokenize(text, max_tokens=MAX_TOKENS).ids) for text in texts]


class PaddedTexts:
    """A peer's encoder with the `tokenizers` package before it and pooling behind it."""

    encoder: Callable[[Path, int, str | None], Any]

    def __init__(self, path: Path, tokenizer: Path, threads: int, isa: str | None):
        from tokenizers import Tokenizer

        self.run = type(self).encoder(path, threads, isa)
        self.info = self.run.info
        tokenize = Tokenizer.from_file(str(tokenizer))
        tokenize.no_padding()
        tokenize.enable_truncation(MAX_TOKENS)
        self._encode_batch = getattr(tokenize, "encode_batch_fast", tokenize.encode_batch)

    def encode(self, texts: list[str], batch_size: int) -> np.ndarray:
        return encode_padded([encoding.ids for encoding in self._encode_batch(texts)], batch_size, self.hidden_states)

    def hidden_states(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def _feed(ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(INPUT_NAMES, (ids, mask, np.zeros_like(ids)), strict=True))


class OnnxRuntime(PaddedTexts):
    encoder = runners.OnnxRuntime

    def hidden_states(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        states: np.ndarray = self.run.session.run([OUTPUT_NAME], _feed(ids, mask))[0]
        return states


class OpenVino(PaddedTexts):
    encoder = runners.OpenVino

    def hidden_states(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        states: np.ndarray = self.run.request.infer(_feed(ids, mask), share_inputs=True, share_outputs=True)[0]
        return states


class CTranslate2(PaddedTexts):
    encoder = runners.CTranslate2

    def hidden_states(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        # Views borrow the arrays' memory, so the arrays must have names.
        narrow, lengths = ids.astype(np.int32), mask.sum(axis=1, dtype=np.int32)
        view = self.run.storage_view.from_array
        return np.array(self.run.encoder.forward_batch(view(narrow), lengths=view(lengths)).last_hidden_state)


class Torch(PaddedTexts):
    encoder = runners.Torch

    def hidden_states(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        torch = self.run.torch
        with torch.inference_mode():
            states = self.run.model(**{name: torch.from_numpy(array) for name, array in _feed(ids, mask).items()}).last_hidden_state
        return np.asarray(states)


RUNNERS: dict[str, type[TextRunner]] = {
    OURS: Ours,
    "ort-fp32": OnnxRuntime,
    "ort-int8": OnnxRuntime,
    "ov-fp32": OpenVino,
    "ov-int8": OpenVino,
    "ct2-int8": CTranslate2,
    "torch": Torch,
}
