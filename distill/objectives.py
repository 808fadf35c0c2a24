"""What a model is pretrained for: masked tokens, with pairs of segments beside them or not, and replaced tokens.

Each is a module whose forward takes a batch of `packing.PackedBatches` and returns scalars, "loss" and "padding" (the share of the batch
that is padding) among them. Logits over the vocabulary are computed for the masked places only.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers
from torch.nn import functional

from . import models
from .encoders import flops_per_token, hidden_states, masked_logits
from .masking import IGNORED
from .settings import SettingsError
from .training import Batch

Values = dict[str, torch.Tensor]

_PAIRED: dict[str, tuple[str, Any]] = {
    "mlm+nsp": ("bert", transformers.BertForPreTraining),
    "mlm+sop": ("albert", transformers.AlbertForPreTraining),
}
_MASKED: dict[str, Any] = {
    "bert": transformers.BertForMaskedLM,
    "roberta": transformers.RobertaForMaskedLM,
    "distilbert": transformers.DistilBertForMaskedLM,
    "albert": transformers.AlbertForMaskedLM,
    "electra": transformers.ElectraForMaskedLM,
    "deberta": transformers.DebertaForMaskedLM,
    "deberta-v2": transformers.DebertaV2ForMaskedLM,
}
_REPLACED = ("electra", "deberta", "deberta-v2")


def model_class(kind: str, architecture: str) -> Any:
    """The class of `transformers` with the heads of an objective. Raises SettingsError where the architecture has none."""
    if kind in _PAIRED:
        only, found = _PAIRED[kind]
        if architecture != only:
            raise SettingsError(f"objective.kind is {kind!r}, which is of {only} alone; of {architecture}, take 'mlm'")
        return found
    if kind == "rtd":
        if architecture not in _REPLACED:
            raise SettingsError(f"objective.kind is 'rtd'; known for {', '.join(_REPLACED)}, not for {architecture}")
        return transformers.ElectraForPreTraining if architecture == "electra" else transformers.AutoModel
    return _MASKED[architecture]


def make_model(kind: str, config: Any, init: str | None = None) -> Any:
    """A model with the heads of an objective: with random weights, or those of a checkpoint (heads that it lacks are random)."""
    of = model_class(kind, config.model_type)
    if init is not None:
        return models.load_model(init, of)
    return of.from_config(config) if of is transformers.AutoModel else of(config)


def masked_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the labels that are not IGNORED, in nats; 0 if there is none."""
    total = functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def padding_of(batch: Batch) -> torch.Tensor:
    """The share of a batch that is padding."""
    return (batch["segments"] == 0).float().mean()


class MaskedObjective(torch.nn.Module):
    """Masked tokens (Devlin et al. 2019, section 3.1) with any of the architectures; with a class for pretraining, pairs as well.

    The loss is the sum of both means, as there and in Lan et al. 2020, section 3.1.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._paired = isinstance(model, tuple(each for _, each in _PAIRED.values()))

    def forward(self, batch: Batch) -> Values:
        """{"loss", "padding"}, with pairs also {"mlm_loss", "pair_loss"}"""
        states = hidden_states(self.model.base_model, batch["input_ids"], batch).flatten(0, 1)
        loss = masked_loss(masked_logits(self.model, states[batch["places"]]), batch["labels"])
        if not self._paired:
            return {"loss": loss, "padding": padding_of(batch)}
        first = states[batch["first"]]
        if self.model.config.model_type == "albert":
            encoder = self.model.albert
            logits = self.model.sop_classifier(encoder.pooler_activation(encoder.pooler(first)))
        else:
            pooler = self.model.bert.pooler
            logits = self.model.cls.seq_relationship(pooler.activation(pooler.dense(first)))
        pair_loss = masked_loss(logits, batch["pair_labels"])
        return {"loss": loss + pair_loss, "mlm_loss": loss, "pair_loss": pair_loss, "padding": padding_of(batch)}

    def exported(self) -> Any:
        """The model as `transformers` has it."""
        return self.model

    def flops_per_token(self, width: int, rate: float) -> float:
        """FLOP of a training step for a token."""
        return flops_per_token(self.model, width, rate)


class DisentangledEmbedding(torch.nn.Module):
    """stop_gradient(E_G) + E_Δ: an embedding that shares another's values but does not move it (He, Gao and Chen 2023, section 3.3)."""

    def __init__(self, shared: torch.nn.Embedding) -> None:
        super().__init__()
        self._shared = [shared]  # not this module's own parameter
        self.delta = torch.nn.Parameter(torch.zeros_like(shared.weight))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(…, embedding_size)"""
        return functional.embedding(ids, self._shared[0].weight.detach()) + functional.embedding(ids, self.delta)

    def merged(self) -> torch.nn.Embedding:
        """The same as an ordinary embedding."""
        weight = (self._shared[0].weight + self.delta).detach().clone()
        return torch.nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=self._shared[0].padding_idx)


class ReplacedTokenHead(torch.nn.Module):
    """Whether each token was replaced: ELECTRA's head, for an encoder whose class has none."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(config.hidden_size, config.hidden_size)
        self.output = torch.nn.Linear(config.hidden_size, 1)
        for layer in (self.dense, self.output):
            torch.nn.init.normal_(layer.weight, std=config.initializer_range)
            torch.nn.init.zeros_(layer.bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(rows, width)"""
        return self.output(functional.gelu(self.dense(states))).squeeze(-1)  # type: ignore[no-any-return]


class ReplacedTokenObjective(torch.nn.Module):
    """Replaced-token detection (Clark et al. 2020, section 2): a small generator fills the masked places with samples, and the
    discriminator, which is the model, says of every token whether it is the original.

    The loss is that of masked tokens for the generator plus `weight` (λ) times the discriminator's. ELECTRA's two share their embeddings
    (section 3.2); DeBERTa's do by `DisentangledEmbedding`.

    Args:
        model: the discriminator.
        generator_size: the generator's width as a share of the discriminator's (ELECTRA), or its depth (DeBERTa, whose generator is as
            wide).
    """

    def __init__(self, model: Any, generator_size: float, weight: float = 50.0) -> None:
        super().__init__()
        self.discriminator, self.weight = model, weight
        config = generator_config(model.config, generator_size)
        self.generator = _MASKED[config.model_type](config)
        encoder = self.generator.base_model
        if config.model_type == "electra":
            encoder.embeddings = model.electra.embeddings
            self.generator.generator_lm_head.weight = encoder.embeddings.word_embeddings.weight
        else:
            # The generator begins with the model's embeddings; what the model's own differ by begins with 0.
            encoder.embeddings.word_embeddings.weight.data.copy_(model.embeddings.word_embeddings.weight.data)
            model.embeddings.word_embeddings = DisentangledEmbedding(encoder.embeddings.word_embeddings)
            self.head = ReplacedTokenHead(model.config)

    def forward(self, batch: Batch) -> Values:
        """{"loss", "mlm_loss", "rtd_loss", "replaced", "accuracy", "padding"}; replaced: share of the tokens that the generator changed"""
        places, labels = batch["places"], batch["labels"]
        states = hidden_states(self.generator.base_model, batch["input_ids"], batch).flatten(0, 1)
        logits = masked_logits(self.generator, states[places])
        mlm_loss = masked_loss(logits, labels)
        original = batch["original_ids"]
        with torch.no_grad():
            sampled = sample(logits.float())
            counts = labels != IGNORED
            filled = original.flatten().index_copy(0, places, torch.where(counts, sampled, original.flatten()[places])).view_as(original)
            replaced = (filled != original).float()
        real = (batch["segments"] > 0).float()
        states = hidden_states(self.discriminator.base_model, filled, batch)
        own = self.discriminator.discriminator_predictions if self.discriminator.config.model_type == "electra" else self.head
        scores = own(states).float()
        losses = functional.binary_cross_entropy_with_logits(scores, replaced, reduction="none")
        rtd_loss = (losses * real).sum() / real.sum()
        accuracy = (((scores > 0) == (replaced > 0)) * real).sum() / real.sum()
        return {
            "loss": mlm_loss + self.weight * rtd_loss,
            "mlm_loss": mlm_loss,
            "rtd_loss": rtd_loss,
            "replaced": (replaced * real).sum() / real.sum(),
            "accuracy": accuracy.detach(),
            "padding": padding_of(batch),
        }

    def exported(self) -> Any:
        """The discriminator as `transformers` has it: ElectraForPreTraining, or DeBERTa's encoder."""
        if self.discriminator.config.model_type == "electra":
            return self.discriminator
        embeddings = self.discriminator.embeddings
        mine, embeddings.word_embeddings = embeddings.word_embeddings, None
        made = copy.deepcopy(self.discriminator)
        embeddings.word_embeddings = mine
        made.embeddings.word_embeddings = mine.merged()
        return made

    def flops_per_token(self, width: int, rate: float) -> float:
        """FLOP of a training step for a token, of both models."""
        return flops_per_token(self.generator, width, rate) + flops_per_token(self.discriminator, width, 0.0)


def sample(logits: torch.Tensor) -> torch.Tensor:
    """int64 (n,): one of each row by its softmax, by the Gumbel-max trick: without a copy to the CPU."""
    noise = torch.rand_like(logits).clamp_(min=torch.finfo(logits.dtype).tiny)
    return (logits - torch.log(-torch.log(noise))).argmax(-1)


def generator_config(config: Any, size: float) -> Any:
    """The generator's configuration, see `ReplacedTokenObjective`."""
    made = copy.deepcopy(config)
    if config.model_type != "electra":
        made.num_hidden_layers = max(1, round(config.num_hidden_layers * size))
        return made
    head = config.hidden_size // config.num_attention_heads
    made.num_attention_heads = max(1, round(config.num_attention_heads * size))
    made.hidden_size = made.num_attention_heads * head
    made.intermediate_size = max(1, round(config.intermediate_size * made.hidden_size / config.hidden_size))
    return made
