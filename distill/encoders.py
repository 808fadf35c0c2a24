"""Encoders to be pretrained: their sizes, their configurations, and what packed rows need of each architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers

from .masking import Vocabulary
from .models import first_line
from .settings import SettingsError
from .training import Batch

SIZES = {"tiny": (128, 2), "mini": (256, 4), "small": (512, 4), "medium": (512, 8), "base": (768, 12)}
"""hidden size and layers (Turc et al. 2019, table 1); a head has 64 values, the layer between is four times as wide."""

ARCHITECTURES = ("bert", "tinybert", "roberta", "distilbert", "albert", "electra", "deberta", "deberta-v2")
CONFIGS: dict[str, Any] = {
    "bert": transformers.BertConfig,
    "roberta": transformers.RobertaConfig,
    "distilbert": transformers.DistilBertConfig,
    "albert": transformers.AlbertConfig,
    "electra": transformers.ElectraConfig,
    "deberta": transformers.DebertaConfig,
    "deberta-v2": transformers.DebertaV2Config,
}
_DISTILBERT = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}


@dataclass(frozen=True)
class Shape:
    """An encoder that begins with random weights, or with those of a checkpoint."""

    architecture: Literal["bert", "tinybert", "roberta", "distilbert", "albert", "electra", "deberta", "deberta-v2"] = "bert"
    """tinybert: BERT's, as all sizes here"""
    size: Literal["tiny", "mini", "small", "medium", "base"] | None = None
    """this, or hidden_size and layers"""
    hidden_size: int | None = None
    layers: int | None = None
    heads: int | None = None
    """default: of 64 values each"""
    intermediate_size: int | None = None
    """default: four times hidden_size"""
    max_positions: int = 512
    dropout: float = 0.1
    positions: Literal["random", "sinusoidal"] = "random"
    """how the table of positions begins, see `begin_with_sinusoids`"""
    init: str | None = None
    """a checkpoint to go on from, with its tokenizer: says architecture and size itself"""
    config: dict[str, int | float | str | bool] | None = None
    """other keys of config.json"""

    def __post_init__(self) -> None:
        given = (self.hidden_size, self.layers, self.heads, self.intermediate_size)
        if self.init is not None:
            if self.size is not None or any(each is not None for each in given) or self.config:
                raise ValueError("with 'init', the checkpoint says the size: leave out size, hidden_size, layers, heads and config")
            if self.positions != "random":
                raise ValueError("with 'init', the positions are the checkpoint's: leave out positions")
            return
        if self.size is None and (self.hidden_size is None or self.layers is None):
            raise ValueError("say 'size', or both 'hidden_size' and 'layers', or 'init'")
        if any(each is not None and each < 1 for each in given) or self.max_positions < 8:
            raise ValueError("hidden_size, layers, heads and intermediate_size must be 1 or more, max_positions 8 or more")
        hidden, _, heads, _ = self.sizes()
        if hidden % heads:
            raise ValueError(f"hidden_size {hidden} is not a multiple of {heads} heads")

    @property
    def kind(self) -> str:
        """The model_type."""
        return "bert" if self.architecture == "tinybert" else self.architecture

    def sizes(self) -> tuple[int, int, int, int]:
        """hidden_size, layers, heads, intermediate_size."""
        hidden, layers = SIZES.get(self.size or "", (0, 0))
        hidden, layers = self.hidden_size or hidden, self.layers or layers
        return hidden, layers, self.heads or max(1, hidden // 64), self.intermediate_size or 4 * hidden


def make_config(shape: Shape, pieces: int, vocabulary: Vocabulary) -> Any:
    """The configuration of an encoder for a vocabulary of so many pieces. Raises SettingsError for keys that it does not know."""
    hidden, layers, heads, inner = shape.sizes()
    kind = shape.kind
    values: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "hidden_dropout_prob": shape.dropout,
        "attention_probs_dropout_prob": shape.dropout,
    }
    if kind == "distilbert":
        values = {_DISTILBERT[name]: value for name, value in values.items()}
    values |= {"vocab_size": pieces, "max_position_embeddings": shape.max_positions, "pad_token_id": vocabulary.pad}
    if kind == "roberta":
        # Liu et al. 2019: positions are counted from pad_token_id + 1 on.
        values |= {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "bos_token_id": vocabulary.cls, "eos_token_id": vocabulary.sep}
        values["max_position_embeddings"] += vocabulary.pad + 1
    elif kind in ("albert", "electra"):
        values["embedding_size"] = min(128, hidden) if kind == "albert" else hidden
        values |= {"bos_token_id": vocabulary.cls, "eos_token_id": vocabulary.sep} if kind == "albert" else {}
    elif kind in ("deberta", "deberta-v2"):
        values |= {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False, "type_vocab_size": 0}
        if kind == "deberta-v2":
            buckets = min(256, shape.max_positions // 2)
            values |= {"position_buckets": buckets, "norm_rel_ebd": "layer_norm", "share_att_key": True}
    known = CONFIGS[kind]().to_dict()
    for name in shape.config or {}:
        if name not in known and name not in ("conv_kernel_size", "conv_act"):
            raise SettingsError(f"model.config: {kind} has no key {name!r}")
    try:
        return CONFIGS[kind](**values | (shape.config or {}))
    except (ValueError, TypeError) as error:
        raise SettingsError(f"model.config: {first_line(error)}") from None


def begin_with_sinusoids(model: torch.nn.Module) -> None:
    """Give the table of positions the waves of Vaswani et al. 2017, section 3.5, as large as its random values would be.

    A token's neighbours then differ from it by the same rotation everywhere, which attention learns much sooner than one position at a
    time. The table is trained like any other. Raises SettingsError for a model without one.
    """
    tables = [
        module for name, module in model.named_modules() if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)
    ]
    if not tables:
        raise SettingsError("model.positions: this architecture has no table of positions: leave it out")
    for table in tables:
        if table.weight.is_meta:
            continue
        count, width = table.weight.shape
        angles = torch.arange(count)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
        waves = torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(count, -1)[:, :width]
        with torch.no_grad():
            table.weight.copy_(waves * (table.weight.std() / waves.std()))


def can_pack(config: Any) -> bool:
    """Whether several examples may share a row: not with DeBERTa-v2's convolution, which sees over their borders."""
    return not getattr(config, "conv_kernel_size", 0)


def hidden_states(encoder: Any, ids: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The last hidden states of packed rows, (rows, width, hidden_size).

    Args:
        ids: int64 (rows, width).
        batch: position_ids, token_type_ids and segments, see `packing.PackedBatches`.
    """
    config, segments, positions = encoder.config, batch["segments"], batch["position_ids"]
    # Padding sees padding: a row of attention that is empty would be NaN.
    same = segments[:, :, None] == segments[:, None, :]
    types = {"token_type_ids": batch["token_type_ids"]} if getattr(config, "type_vocab_size", 0) > 1 else {}
    if config.model_type in ("deberta", "deberta-v2"):
        # These take no mask of pairs of tokens as a whole, but their parts do.
        embedded = encoder.embeddings(input_ids=ids, position_ids=positions, mask=(segments > 0).long(), **types)
        states: torch.Tensor = encoder.encoder(embedded, same, output_hidden_states=False, return_dict=True).last_hidden_state
        return states
    if config.model_type == "roberta":
        positions = positions + config.pad_token_id + 1
    output = encoder(input_ids=ids, attention_mask=same[:, None], position_ids=positions, **types)
    return output.last_hidden_state  # type: ignore[no-any-return]


def masked_logits(model: Any, states: torch.Tensor) -> torch.Tensor:
    """(n, vocab_size): what a model's head for masked tokens makes of hidden states (n, hidden_size)."""
    kind = model.config.model_type
    if kind == "distilbert":
        logits = model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(states))))
    elif kind == "electra":
        logits = model.generator_lm_head(model.generator_predictions(states))
    elif kind == "roberta":
        logits = model.lm_head(states)
    elif kind == "albert":
        logits = model.predictions(states)
    elif kind == "bert" or model.config.legacy:
        logits = model.cls.predictions(states)
    else:
        logits = model.lm_predictions.lm_head(states, model.deberta.embeddings.word_embeddings)
    return logits  # type: ignore[no-any-return]


def flops_per_token(model: Any, width: int, masked: float) -> float:
    """FLOP of forward and backward pass for a token: 6 for each weight of a product, 12 × width × hidden_size for a layer's attention
    (Chowdhery et al. 2022, appendix B), and the vocabulary's product for the share of tokens that are masked. Products of relative
    positions, of an embedding projection and of the heads of pairs are not counted.

    Args:
        width: tokens of a row.
        masked: share of the tokens that the head is computed for; 0: there is none.
    """
    config = model.config
    hidden = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or config.hidden_dim
    layers = config.num_hidden_layers
    own = layers * (4 * hidden * hidden + 2 * hidden * inner)
    size = getattr(config, "embedding_size", None) or hidden
    head = hidden * size + size * config.vocab_size
    return float(6 * (own + masked * head) + 12 * layers * width * hidden)
