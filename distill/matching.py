"""The objective of a distillation: a student, its teacher, and the weighted losses between them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import losses, masking, tasks
from .batches import Feature
from .devices import Place, moved
from .inside import Inside, Watch, layer_map
from .settings import SettingsError
from .training import Batch

# Losses that need more than the last output of the teacher.
_INNER = {"embedding", "hidden", "attention", "attention_relation", "query_relation", "key_relation", "value_relation", "patient", "cosine"}
_MASKED = 0.15
"""Share of masked tokens (Devlin et al. 2019, section 3.1)."""


class Matching(torch.nn.Module):
    """A student that is to match its teacher. Only the student's parameters and the projections between both are trained."""

    def __init__(self, student: Any, teacher: Any, stage: Any, task: tasks.Task, tokenizer: Any) -> None:
        super().__init__()
        self.student = student
        self.weights: dict[str, float] = stage.weights()
        self._stage, self._task = stage, task
        self._teacher = [teacher]  # in a list: no part of this module
        if "masked" in self.weights:
            self._vocabulary = masking.vocabulary_of(tokenizer)
        used = self.weights.keys()
        if stage.method != "distilbert":
            for name in sorted(used & {"soft", "labels"}):
                tasks.check_kind(task, f"the loss {name!r} of method {stage.method!r}")
        if used & {"labels"} and (stage.texts is not None or stage.augment is not None):
            raise SettingsError("the loss 'labels' needs the task's own examples: leave out 'texts' and 'augment', or the loss")
        self._inner = bool(used & _INNER)
        self._watch_student = Watch(student) if self._inner else None
        self._watch_teacher = [Watch(teacher)] if self._inner else []
        own, theirs = student.config, teacher.config
        self._layers = layer_map(own.num_hidden_layers, theirs.num_hidden_layers)
        self._relation_heads: int = stage.relation_heads or theirs.num_attention_heads
        self._check(own, theirs)
        sizes = {"hidden": own.num_hidden_layers, "embedding": 1, "cosine": 1, "patient": max(own.num_hidden_layers - 1, 1)}
        if "vector" in used:
            sizes["vector"] = 1
        self.projections = torch.nn.ModuleDict()
        if own.hidden_size != theirs.hidden_size:
            for name in sorted(used & sizes.keys()):
                made = [torch.nn.Linear(own.hidden_size, theirs.hidden_size, bias=False) for _ in range(sizes[name])]
                self.projections[name] = torch.nn.ModuleList(made)

    def _check(self, own: Any, theirs: Any) -> None:
        used, heads = self.weights.keys(), self._relation_heads
        if used & {"attention", "attention_relation"} and own.num_attention_heads != theirs.num_attention_heads:
            raise SettingsError(
                f"losses of attention need as many heads in both: the student has {own.num_attention_heads}, the teacher"
                f" {theirs.num_attention_heads}; minilm2 takes any"
            )
        if used & {"query_relation", "key_relation", "value_relation"} and (own.hidden_size % heads or theirs.hidden_size % heads):
            raise SettingsError(f"relation_heads is {heads}; it must divide both hidden sizes, {own.hidden_size} and {theirs.hidden_size}")
        if self._stage.teacher_layer is not None and not 1 <= self._stage.teacher_layer <= theirs.num_hidden_layers:
            raise SettingsError(f"teacher_layer is {self._stage.teacher_layer}; the teacher has {theirs.num_hidden_layers} layers")

    @property
    def leaves_parts_out(self) -> bool:
        """Whether parameters of the student, such as those of its head, have no part in the losses."""
        return self._inner or self._stage.method == "embedding"

    @property
    def outputs_of_teacher(self) -> bool:
        """Whether the teacher's last outputs are all that is needed of it, so that they can be computed once."""
        return not self._inner and "masked" not in self.weights

    def teacher_digest(self, features: Sequence[Feature], labels_by: str) -> str:
        """16 hexadecimal digits that are others for another teacher, other tokens, or another way to label them."""
        digest = hashlib.sha256(f"{self._stage.method} {labels_by}".encode())
        for value in self._teacher[0].state_dict().values():
            digest.update(value.cpu().numpy().data)
        for feature in features:
            for name in ("input_ids", "token_type_ids"):
                digest.update(np.array([*feature.get(name, ()), -1], np.int64).data)
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def label(self, batch: Batch, place: Place) -> list[np.ndarray]:
        """The teacher's logits or vector of each example of a batch."""
        batch = moved(batch, place.device)
        if self._stage.method == "embedding":
            return list(tasks.mean_vectors(self._teacher[0], batch).cpu().numpy())
        return list(self._teacher[0](**tasks.inputs(batch)).logits.float().cpu().numpy())

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss": the weighted sum, and each loss by its name}"""
        if "masked" in self.weights:
            batch = self._masked(batch)
        found: dict[str, Tensor] = {}
        if self._inner and self._watch_student is not None:
            with torch.no_grad():
                theirs = self._watch_teacher[0](batch)
            ours = self._watch_student(batch)
            found |= self._inner_losses(ours, theirs)
            logits, target = ours.logits, batch.get("teacher", theirs.logits)
        elif self._stage.method == "embedding":
            vectors = tasks.mean_vectors(self.student, batch)
            if "vector" in self.weights:
                found["vector"] = losses.vector_cosine(self._projected("vector", 0, vectors), batch["teacher"])
            if "similarity" in self.weights:
                found["similarity"] = losses.similarity_mse(vectors, batch["teacher"])
            logits = target = None
        else:
            logits = self.student(**tasks.inputs(batch)).logits
            target = batch.get("teacher")
            if target is None:
                with torch.no_grad():
                    target = self._teacher[0](**tasks.inputs(batch)).logits
        if logits is not None and target is not None:
            found |= self._output_losses(logits, target, batch)
        total = _sum(self.weights[name] * value for name, value in found.items())
        return {"loss": total, **{name: value.detach() for name, value in found.items()}}

    def _output_losses(self, logits: Tensor, target: Tensor, batch: Batch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        chosen = batch.get("masked_labels")
        if chosen is not None:
            logits, target, chosen = logits[chosen != -100], target[chosen != -100], chosen[chosen != -100]
            found["masked"] = torch.nn.functional.cross_entropy(logits.float(), chosen)
        if "soft" in self.weights:
            if logits.shape[-1] == 1:  # of a regression
                found["soft"] = torch.nn.functional.mse_loss(logits.float(), target)
            else:
                found["soft"] = losses.soft_targets(logits.float(), target, self._stage.temperature)
        if "labels" in self.weights:
            if logits.shape[-1] == 1:
                found["labels"] = torch.nn.functional.mse_loss(logits.float()[:, 0], batch["labels"])
            else:
                found["labels"] = torch.nn.functional.cross_entropy(logits.float(), batch["labels"])
        return found

    def _inner_losses(self, ours: Inside, theirs: Inside) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        used, mask, heads = self.weights.keys(), ours.mask, self._relation_heads
        layers = list(enumerate(self._layers))
        last, source = len(ours.queries) - 1, (self._stage.teacher_layer or len(theirs.queries)) - 1
        if "embedding" in used:
            found["embedding"] = losses.hidden_mse(self._projected("embedding", 0, ours.hidden_states[0]), theirs.hidden_states[0], mask)
        if "hidden" in used:
            found["hidden"] = _sum(
                losses.hidden_mse(self._projected("hidden", i, ours.hidden_states[i + 1]), theirs.hidden_states[j], mask) for i, j in layers
            )
        if "attention" in used:
            found["attention"] = _sum(losses.attention_mse(ours.scores(i), theirs.scores(j - 1), mask) for i, j in layers)
        if "cosine" in used:
            found["cosine"] = losses.cosine(self._projected("cosine", 0, ours.hidden_states[-1]), theirs.hidden_states[-1], mask)
        if "patient" in used:
            between = layers[:-1] or layers
            student = torch.stack([self._projected("patient", i, ours.hidden_states[i + 1][:, 0]) for i, _ in between])
            found["patient"] = losses.patient(student, torch.stack([theirs.hidden_states[j][:, 0] for _, j in between]))
        if "attention_relation" in used:
            found["attention_relation"] = losses.attention_kl(ours.scores(last), theirs.scores(source), mask)
        relations = (("query_relation", "queries"), ("key_relation", "keys"), ("value_relation", "values"))
        for name, part in relations:
            if name in used:
                found[name] = losses.relation_kl(getattr(ours, part)[last].float(), getattr(theirs, part)[source].float(), heads, mask)
        return found

    def _projected(self, name: str, index: int, states: Tensor) -> Tensor:
        return self.projections[name][index](states) if name in self.projections else states

    def _masked(self, batch: Batch) -> Batch:
        """The batch with tokens hidden as in BERT's pretraining, and "masked_labels": int64 (B, L), −100 where nothing is to be said."""
        ids = batch["input_ids"].cpu().numpy()
        seed = int(torch.randint(1 << 31, ()))  # seeded by the step
        changed, places, originals = masking.mask(ids, np.arange(len(ids)), self._vocabulary, _MASKED, seed=seed, step=0)
        labels = np.full(ids.size, masking.IGNORED)
        labels[places] = originals
        tensors = {"input_ids": changed, "masked_labels": labels.reshape(ids.shape)}
        return {**batch, **{name: torch.from_numpy(value).to(batch["input_ids"].device) for name, value in tensors.items()}}


def _sum(values: Any) -> Tensor:
    total: Tensor = sum(values)
    return total
