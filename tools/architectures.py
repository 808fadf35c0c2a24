"""The architectures that can be converted: where their config.json and their tensors differ from BERT's.

An architecture is one entry of ARCHITECTURES. What all of them compute is one encoder; see CONTRIBUTING.md for how to add another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

_BERT_LINEARS = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output": ("attention.output.dense",),
    "ffn.in": ("intermediate.dense",),
    "ffn.out": ("output.dense",),
}
_BERT_NORMS = {"attention.norm": "attention.output.LayerNorm", "ffn.norm": "output.LayerNorm"}
_DEBERTA_DEFAULTS = {"type_vocab_size": 0, "layer_norm_eps": 1e-7}
_DEBERTA_POOLED = ("pooler.dense", "gelu", "classifier")
_DEBERTA_HEADS = ("pooler.", "cls.", "lm_predictions.", "mask_predictions.", "classifier.", "qa_outputs.")


@dataclass(frozen=True)
class MaskedHead:
    """Where the weights of a head are that predicts masked tokens.

    Attributes:
        dense, norm: the layers between hidden states and the decoder.
        decoder: the output layer, whose weight may be missing (it is the embedding table). bias: another name of its bias, or "".
        activation: behind the dense layer; "": config.json's hidden_act.
    """

    dense: str
    norm: str
    decoder: str
    bias: str = ""
    activation: str = ""


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        name: its model_type in config.json, and its name in `layout.ARCHITECTURES`.
        prefix: what tensor names begin with in checkpoints that have a head.
        keys: keys of config.json that are not BERT's, by BERT's.
        defaults: values of keys (as BERT has them) that config.json may leave out, where they are not BERT's.
        fixed: values that its code has and config.json has not, by BERT's keys.
        positions_begin: rows of the position table before that of the first token: "pad" for pad_token_id + 1, else "".
        types: it has token types (segments).
        relative: it may have disentangled attention and what comes with it, see `relative`.
        packed: the linear layer that holds the query, key and value of each head one behind the other, or "".
        project: the linear layer from embeddings to hidden states, or "".
        always_projected: it has that layer even where both have the same size.
        layer: the name of a layer; `{layer}`, or `{group}` and `{inner}` where layers are shared.
        position_key, position_query: the projections of relative positions, or "".
        linears, norms: parts of a layer, by their names in a `.tbrt` file.
        pooled: the head of a classifier of texts: its dense layer on the first token, or "", the activation behind that, its output layer.
        pooled_activation: the key of config.json that names another activation than that of `pooled`, or "".
        chosen: the same for multiple choice and next-sentence prediction, where it is not that of `pooled`.
        chosen_settings: keys of config.json that multiple choice depends on; only these values, the defaults, are supported.
        masked: the head that predicts masked tokens. own_masked: the same under the names of its own authors, or None.
        heads: tensors of heads, by the beginning of their names.
    """

    name: str
    prefix: str
    keys: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    fixed: Mapping[str, object] = field(default_factory=dict)
    positions_begin: str = ""
    types: bool = True
    relative: bool = False
    packed: str = ""
    position_key: str = ""
    position_query: str = ""
    project: str = ""
    always_projected: bool = False
    layer: str = "encoder.layer.{layer}"
    linears: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _BERT_LINEARS)
    norms: Mapping[str, str] = field(default_factory=lambda: _BERT_NORMS)
    pooled: tuple[str, str, str] = ("pooler.dense", "tanh", "classifier")
    pooled_activation: str = ""
    chosen: tuple[str, str, str] | None = None
    chosen_settings: Mapping[str, object] = field(default_factory=dict)
    masked: MaskedHead = MaskedHead(
        "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder", "cls.predictions.bias"
    )
    own_masked: MaskedHead | None = None
    heads: tuple[str, ...] = ("pooler.", "cls.", "classifier.", "qa_outputs.")

    def key(self, name: str) -> str:
        """What config.json calls BERT's key `name`."""
        return self.keys.get(name, name)

    @property
    def shares_layers(self) -> bool:
        """Whether several layers may have the same weights."""
        return "{group}" in self.layer


# transformers' name of these: legacy = false.
_DEBERTA_MASKED = MaskedHead("lm_predictions.lm_head.dense", "lm_predictions.lm_head.LayerNorm", "lm_predictions.lm_head")

# Liu et al. 2019: positions are counted from padding_idx + 1 on.
_ROBERTA = Architecture(
    "roberta",
    "roberta.",
    positions_begin="pad",
    pooled=("classifier.dense", "tanh", "classifier.out_proj"),
    chosen=("pooler.dense", "tanh", "classifier"),
    masked=MaskedHead("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias", "gelu"),
    heads=("pooler.", "lm_head.", "classifier.", "qa_outputs."),
)

ARCHITECTURES: Mapping[str, Architecture] = {
    each.name: each
    for each in (
        Architecture("bert", "bert."),
        _ROBERTA,
        replace(_ROBERTA, name="xlm-roberta"),  # Conneau et al. 2020
        replace(_ROBERTA, name="camembert"),  # Martin et al. 2020
        # Sanh et al. 2019.
        Architecture(
            "distilbert",
            "distilbert.",
            keys={
                "num_hidden_layers": "n_layers",
                "hidden_size": "dim",
                "num_attention_heads": "n_heads",
                "intermediate_size": "hidden_dim",
                "hidden_act": "activation",
            },
            fixed={"layer_norm_eps": 1e-12, "type_vocab_size": 1},
            types=False,
            layer="transformer.layer.{layer}",
            linears={
                "attention.qkv": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
                "attention.output": ("attention.out_lin",),
                "ffn.in": ("ffn.lin1",),
                "ffn.out": ("ffn.lin2",),
            },
            norms={"attention.norm": "sa_layer_norm", "ffn.norm": "output_layer_norm"},
            pooled=("pre_classifier", "relu", "classifier"),
            masked=MaskedHead("vocab_transform", "vocab_layer_norm", "vocab_projector"),
            heads=("vocab_transform.", "vocab_layer_norm.", "vocab_projector.", "pre_classifier.", "classifier.", "qa_outputs."),
        ),
        # Lan et al. 2020: factorised embeddings (section 3.1), layers shared in groups.
        Architecture(
            "albert",
            "albert.",
            defaults={"hidden_act": "gelu_new"},
            project="encoder.embedding_hidden_mapping_in",
            always_projected=True,
            layer="encoder.albert_layer_groups.{group}.albert_layers.{inner}",
            linears={
                "attention.qkv": ("attention.query", "attention.key", "attention.value"),
                "attention.output": ("attention.dense",),
                "ffn.in": ("ffn",),
                "ffn.out": ("ffn_output",),
            },
            norms={"attention.norm": "attention.LayerNorm", "ffn.norm": "full_layer_layer_norm"},
            pooled=("pooler", "tanh", "classifier"),
            masked=MaskedHead("predictions.dense", "predictions.LayerNorm", "predictions.decoder", "predictions.bias"),
            heads=("pooler.", "predictions.", "sop_classifier.", "classifier.", "qa_outputs."),
        ),
        # Clark et al. 2020.
        Architecture(
            "electra",
            "electra.",
            project="embeddings_project",
            pooled=("classifier.dense", "gelu", "classifier.out_proj"),
            chosen=("sequence_summary.summary", "gelu", "classifier"),
            chosen_settings={"summary_type": "first", "summary_use_proj": True, "summary_activation": "gelu"},
            masked=MaskedHead("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head", activation="gelu"),
            heads=(
                "discriminator_predictions.",
                "generator_predictions.",
                "generator_lm_head.",
                "sequence_summary.",
                "classifier.",
                "qa_outputs.",
            ),
        ),
        # He et al. 2021; He, Gao and Chen 2023 for deberta-v2, which is v3 too.
        Architecture(
            "deberta",
            "deberta.",
            defaults=_DEBERTA_DEFAULTS,
            relative=True,
            packed="attention.self.in_proj",
            position_key="attention.self.pos_proj",
            position_query="attention.self.pos_q_proj",
            pooled=_DEBERTA_POOLED,
            pooled_activation="pooler_hidden_act",
            own_masked=_DEBERTA_MASKED,
            heads=_DEBERTA_HEADS,
        ),
        Architecture(
            "deberta-v2",
            "deberta.",
            defaults=_DEBERTA_DEFAULTS,
            relative=True,
            linears=_BERT_LINEARS
            | {"attention.qkv": ("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj")},
            position_key="attention.self.pos_key_proj",
            position_query="attention.self.pos_query_proj",
            pooled=_DEBERTA_POOLED,
            pooled_activation="pooler_hidden_act",
            own_masked=_DEBERTA_MASKED,
            heads=_DEBERTA_HEADS,
        ),
    )
}
