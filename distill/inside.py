"""What a model computes on the way: hidden states, queries, keys and values of every layer, for distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .settings import SettingsError
from .tasks import inputs
from .training import Batch

# Of each model type: where the layers are, and the linear layers of queries, keys and values in them.
_BERT = ("encoder.layer", ("attention.self.query", "attention.self.key", "attention.self.value"))
_LAYERS = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": _BERT,
    "distilbert": ("transformer.layer", ("attention.q_lin", "attention.k_lin", "attention.v_lin")),
}


@dataclass
class Inside:
    """What a forward pass left, of B texts of L tokens.

    Attributes:
        logits: the head's, or None.
        hidden_states: layers + 1 of (B, L, hidden), the embeddings first.
        queries, keys, values: of each layer, (B, L, hidden).
        mask: bool (B, L).
        heads: attention heads.
    """

    logits: Tensor | None
    hidden_states: tuple[Tensor, ...]
    queries: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor
    heads: int

    def scores(self, layer: int) -> Tensor:
        """Attention scores of a layer before softmax, (B, heads, L, L): Q Kᵀ / √d."""
        query, key = (each[layer].unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.queries, self.keys))
        return query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5


class Watch:
    """Runs a model and keeps what happens inside of it."""

    def __init__(self, model: Any) -> None:
        kind = model.config.model_type
        if kind not in _LAYERS:
            raise SettingsError(f"losses of attention and its parts are for {', '.join(_LAYERS)}, not for {kind!r}")
        self._model = model
        folder, names = _LAYERS[kind]
        self._parts = [[layer.get_submodule(name) for layer in model.base_model.get_submodule(folder)] for name in names]

    def __call__(self, batch: Batch) -> Inside:
        """One forward pass of a batch."""
        kept: list[list[Tensor]] = [[] for _ in self._parts]

        def keep(place: int) -> Any:
            return lambda module, given, output: kept[place].append(output)

        # Only for this pass: others would be kept as well, with all that is needed for their gradients.
        handles = [part.register_forward_hook(keep(place)) for place, parts in enumerate(self._parts) for part in parts]
        try:
            found = self._model(**inputs(batch), output_hidden_states=True)
        finally:
            for handle in handles:
                handle.remove()
        heads = self._model.config.num_attention_heads
        queries, keys, values = kept
        return Inside(found.get("logits"), found.hidden_states, queries, keys, values, batch["attention_mask"].bool(), heads)


def layer_map(student: int, teacher: int) -> tuple[int, ...]:
    """The teacher's layer (from 1) for each layer of the student: spread evenly, the last to the last (Jiao et al. 2020, section 4.1)."""
    return tuple(round((index + 1) * teacher / student) for index in range(student))
