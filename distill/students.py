"""Students made of their teachers: layers copied where the width is the same, narrowed by projection where it is not.

A narrower student lives in the d_s main directions P (d_t × d_s, orthonormal) of the teacher's hidden states, found by PCA on sample
texts: a state x of the teacher is P y for the student's y.
- Linear layers become Pᵀ W P. Of each head, the products that matter, W_Qᵀ W_K and W_O W_V, are kept in their best form of the head's new
  size (truncated SVD, weighted with the second moment of what goes in).
- Of the neurons between the two layers of the FFN, those that contribute most stay; the mean of the others goes into the bias.
- Normalization does not commute with P: its weight and bias are fitted by linear regression, from bottom to top, so that the student's
  states on the sample are nearest to the teacher's.
An embedding table narrower than the hidden size (`embedding`) gets the main directions of the table, and a projection fitted likewise;
such a student is an ELECTRA encoder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers
from torch import Tensor

from .inside import layer_map
from .settings import SettingsError
from .tasks import inputs
from .training import Batch

_RIDGE = 1e-4


@dataclass(frozen=True)
class Student:
    """The shape of a student, or the checkpoint that it begins with."""

    checkpoint: str | None = None
    layers: int = 0
    hidden: int = 0
    heads: int = 0
    intermediate: int = 0
    embedding: int | None = None
    """width of the embedding table, if it is not `hidden`"""
    init: Literal["teacher", "random"] = "teacher"
    copied: tuple[int, ...] | None = None
    """the teacher's layer, from 1, for each layer; default: spread evenly"""

    def __post_init__(self) -> None:
        if self.checkpoint is None:
            for name in ("layers", "hidden", "heads", "intermediate"):
                if getattr(self, name) <= 0:
                    raise ValueError(f"{name} must be above 0, or say 'checkpoint'")
            if self.hidden % self.heads:
                raise ValueError(f"hidden is {self.hidden}, which {self.heads} heads do not divide")
            if self.copied is not None and len(self.copied) != self.layers:
                raise ValueError(f"copied names {len(self.copied)} layers, the student has {self.layers}")


def make_student(student: Student, teacher: Any, kind: Any, head: dict[str, Any], samples: Sequence[Batch]) -> Any:
    """A student in a class of `transformers` (an Auto class), begun as `student` says.

    Args:
        teacher: its teacher, a BERT-like model. head: the head's entries of config.json. samples: some batches of ordinary texts.

    Raises SettingsError for a teacher that it cannot be made of.
    """
    source = teacher.config
    if source.model_type not in ("bert", "electra"):
        raise SettingsError(f"a student is made of a BERT or ELECTRA teacher, not of {source.model_type!r}: say student.checkpoint")
    shape: dict[str, Any] = {
        "vocab_size": source.vocab_size,
        "hidden_size": student.hidden,
        "num_hidden_layers": student.layers,
        "num_attention_heads": student.heads,
        "intermediate_size": student.intermediate,
        "hidden_act": source.hidden_act,
        "max_position_embeddings": source.max_position_embeddings,
        "type_vocab_size": source.type_vocab_size,
        "layer_norm_eps": source.layer_norm_eps,
        "pad_token_id": source.pad_token_id,
    }
    config: Any = transformers.BertConfig(**shape, **head)
    if student.embedding is not None and student.embedding != student.hidden:
        config = transformers.ElectraConfig(**shape, **head, embedding_size=student.embedding)
    made = kind.from_config(config).eval()
    if student.init == "teacher":
        wider = (student.hidden, student.heads, student.intermediate)
        if any(
            own > theirs
            for own, theirs in zip(wider, (source.hidden_size, source.num_attention_heads, source.intermediate_size), strict=True)
        ):
            raise SettingsError("a student has at most its teacher's hidden and intermediate size and heads; init = 'random' lifts that")
        _Narrowing(teacher.base_model.eval(), made.base_model, student, samples).run()
    return made


class _Narrowing:
    """Fills a student's encoder, bottom to top."""

    def __init__(self, teacher: Any, student: Any, shape: Student, samples: Sequence[Batch]) -> None:
        self.teacher, self.student = teacher, student
        self.layers = [index - 1 for index in shape.copied or layer_map(shape.layers, teacher.config.num_hidden_layers)]
        if not all(0 <= each < teacher.config.num_hidden_layers for each in self.layers):
            raise SettingsError(f"student.copied: the teacher has the layers 1 to {teacher.config.num_hidden_layers}")
        self.samples = samples
        self.basis = torch.eye(teacher.config.hidden_size)

    @torch.no_grad()
    def run(self) -> None:
        teacher, student = self.teacher, self.student
        norms = [teacher.embeddings.LayerNorm, *(layer.output.LayerNorm for layer in teacher.encoder.layer)]
        states = self.states(teacher, [(norm, False) for norm in norms])
        size = student.config.hidden_size
        if size < teacher.config.hidden_size:
            moments = sum(each.T @ each / (each**2).sum() for each in states)
            self.basis = torch.linalg.eigh(moments).eigenvectors[:, -size:].flip(1)
        self.embeddings(states[0])
        for target, source in zip(student.encoder.layer, self.layers, strict=True):
            self.layer(target, teacher.encoder.layer[source])

    def states(self, model: Any, modules: Sequence[tuple[Any, bool]]) -> list[Tensor]:
        """What goes into some modules of a model (true) or comes out of them (false) on the samples, (tokens, n) each.

        The last module named must be the last that runs: the pass ends there.
        """
        kept: list[list[Tensor]] = [[] for _ in modules]

        def keep(place: int, before: bool) -> Any:
            def hook(module: Any, given: Any, output: Tensor) -> None:
                kept[place].append((given[0] if before else output)[mask])
                if place == len(modules) - 1:
                    raise _DoneError

            return hook

        handles = [module.register_forward_hook(keep(place, before)) for place, (module, before) in enumerate(modules)]
        try:
            for batch in self.samples:
                mask = batch["attention_mask"].bool()
                with contextlib.suppress(_DoneError):
                    model(**inputs(batch))
        finally:
            for handle in handles:
                handle.remove()
        return [torch.cat(each) for each in kept]

    def own(self, module: Any) -> Tensor:
        """What goes into a module of the student."""
        return self.states(self.student, [(module, True)])[0]

    def fit_norm(self, norm: Any, target: Tensor) -> None:
        """Weight and bias of a normalization of the student, for the least squared error to a target, element by element."""
        given = self.own(norm)
        unit = torch.nn.functional.layer_norm(given, given.shape[-1:], eps=norm.eps)
        mean, wanted = unit.mean(0), target.mean(0)
        spread = ((unit - mean) ** 2).mean(0)
        norm.weight.copy_(((unit - mean) * (target - wanted)).mean(0) / (spread + 1e-12))
        norm.bias.copy_(wanted - norm.weight * mean)

    def embeddings(self, states: Tensor) -> None:
        source, target = self.teacher.embeddings, self.student.embeddings
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        narrow = self.student.config.embedding_size if self.student.config.model_type == "electra" else None
        basis = self.basis
        if self.teacher.config.model_type == "electra":
            raise SettingsError("a student cannot be made of a teacher with an embedding projection: say student.checkpoint")
        if narrow is not None:
            given = self.states(self.teacher, [(source.LayerNorm, True)])[0]
            basis = torch.linalg.eigh(given.T @ given).eigenvectors[:, -narrow:].flip(1)
        for name in names:
            getattr(target, name).weight.copy_(getattr(source, name).weight @ basis)
        if narrow is None:
            self.fit_norm(target.LayerNorm, states @ basis)
            return
        project = self.student.embeddings_project
        given = self.own(project)
        solved = torch.linalg.lstsq(_with_one(given), states @ self.basis).solution
        project.weight.copy_(solved[:-1].T)
        project.bias.copy_(solved[-1])

    def layer(self, target: Any, source: Any) -> None:
        basis, own, theirs = self.basis, target.attention, source.attention
        context, attended, inner, after = self.states(
            self.teacher,
            [(theirs.output.dense, True), (theirs.output.LayerNorm, False), (source.output.dense, True), (source.output.LayerNorm, False)],
        )
        given = _with_one(self.own(own.self.query))
        moment = given.T @ given / len(given)
        size, heads = own.self.attention_head_size, own.self.num_attention_heads
        wide = theirs.self.attention_head_size
        kept = _important_heads(theirs, context, heads)
        query, key, value = (_with_bias(getattr(theirs.self, name), basis) for name in ("query", "key", "value"))
        out = basis.T @ theirs.output.dense.weight
        own.output.dense.bias.copy_(basis.T @ theirs.output.dense.bias)
        for place, head in enumerate(kept):
            rows, new = slice(head * wide, (head + 1) * wide), slice(place * size, (place + 1) * size)
            a, b = _narrow(query[rows].T, key[rows].T, size, moment, moment)
            factor = (size / wide) ** 0.25  # scores are divided by √(head size)
            _set(own.self.query, new, a.T * factor)
            _set(own.self.key, new, b.T * factor)
            v, o = _narrow(value[rows].T, out[:, rows], size, moment, torch.eye(len(out)))
            _set(own.self.value, new, v.T)
            own.output.dense.weight[:, new] = o
        self.fit_norm(own.output.LayerNorm, attended @ basis)

        weight = source.output.dense.weight
        strength = (inner**2).mean(0) * (weight**2).sum(0)
        order = strength.argsort(descending=True)
        count = target.intermediate.dense.out_features
        kept_neurons, left = order[:count].sort().values, order[count:]
        into = _with_bias(source.intermediate.dense, basis)[kept_neurons]
        _set(target.intermediate.dense, slice(None), into)
        target.output.dense.weight.copy_(basis.T @ weight[:, kept_neurons])
        target.output.dense.bias.copy_(basis.T @ (source.output.dense.bias + weight[:, left] @ inner[:, left].mean(0)))
        self.fit_norm(target.output.LayerNorm, after @ basis)


class _DoneError(Exception):
    """Ends a forward pass where no more of it is needed."""


def _important_heads(attention: Any, context: Tensor, count: int) -> list[int]:
    """The heads whose contributions to the layer's output are largest, in order.

    Args:
        context: what the heads give for some tokens, (tokens, heads · head size).
    """
    heads = attention.self.num_attention_heads
    split = context.unflatten(-1, (heads, -1))
    weight = attention.output.dense.weight.unflatten(-1, (heads, -1))
    strength = torch.stack([(split[:, head] @ weight[:, head].T).square().mean() for head in range(heads)])
    kept: list[int] = strength.argsort(descending=True)[:count].sort().values.tolist()
    return kept


def _with_one(states: Tensor) -> Tensor:
    return torch.cat([states, torch.ones(len(states), 1)], 1)


def _with_bias(linear: Any, basis: Tensor) -> Tensor:
    """(outputs, d_s + 1): the weight in the student's directions, and the bias as one more column."""
    return torch.cat([linear.weight @ basis, linear.bias[:, None]], 1)


def _set(linear: Any, rows: slice, weight: Tensor) -> None:
    linear.weight[rows] = weight[:, :-1]
    linear.bias[rows] = weight[:, -1]


def _narrow(a: Tensor, b: Tensor, size: int, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The best A' (m, size), B' (n, size) with A' B'ᵀ ≈ A Bᵀ, weighted by the second moments `left` (m, m) and `right` (n, n) of what they
    are multiplied with: truncated SVD of left^½ A Bᵀ right^½ (Eckart and Young 1936). As they are, if they are narrow enough."""
    if a.shape[1] <= size:
        pad = torch.zeros
        return torch.cat([a, pad(len(a), size - a.shape[1])], 1), torch.cat([b, pad(len(b), size - b.shape[1])], 1)
    root_a, back_a = _roots(left)
    root_b, back_b = _roots(right)
    u, s, vh = torch.linalg.svd(root_a @ a @ (root_b @ b).T, full_matrices=False)
    root = s[:size].sqrt()
    return back_a @ (u[:, :size] * root), back_b @ (vh[:size].T * root)


def _roots(moment: Tensor) -> tuple[Tensor, Tensor]:
    """The square root of a symmetric positive matrix, a little lifted, and its inverse."""
    values, vectors = torch.linalg.eigh(moment)
    values = values.clamp(min=0) + _RIDGE * values.max()
    return (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T
