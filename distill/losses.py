"""Losses of distillation, as pure functions: scalars from what a student and its teacher computed for the same tokens.

B texts of L tokens, h heads of d elements. `mask` is bool (B, L), true for tokens that count; means run over these alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def soft_targets(student: Tensor, teacher: Tensor, temperature: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Cross entropy of the student's distribution under the teacher's, both at a temperature, times its square.

    Hinton et al. 2015, section 2 (the square keeps gradients comparable); DistilBERT's L_ce (Sanh et al. 2019, section 2); TinyBERT's
    prediction loss (Jiao et al. 2020, equation 10), with the temperature 1.

    Args:
        student, teacher: logits (B, labels), or (B, L, labels) with a mask.
    """
    entropy = -(functional.softmax(teacher / temperature, -1) * functional.log_softmax(student / temperature, -1)).sum(-1)
    return temperature**2 * (entropy.mean() if mask is None else _mean(entropy, mask))


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of hidden states, (B, L, n) each, the student's after its projection.

    TinyBERT's hidden-state and embedding losses, MSE(H_S W, H_T) (Jiao et al. 2020, equations 8 and 9).
    """
    return _mean(((student - teacher) ** 2).mean(-1), mask)


def attention_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of attention scores before softmax, (B, h, L, L) each, over pairs of tokens that both count.

    TinyBERT's attention loss, (1/h) Σ MSE(A_S, A_T) with the unnormalized A (Jiao et al. 2020, equation 7 and the text below it).
    """
    both = (mask[:, :, None] & mask[:, None, :])[:, None]
    return _mean((student - teacher) ** 2, both.expand_as(student))


def cosine(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """1 − cosine of hidden states, (B, L, n) each: DistilBERT's L_cos on the last layer (Sanh et al. 2019, section 3)."""
    return _mean(1 - functional.cosine_similarity(student, teacher, dim=-1), mask)


def attention_kl(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL(A_T ‖ A_S) of attention distributions, a mean over heads and tokens: MiniLM's attention transfer (Wang et al. 2020, equation 6).

    Args:
        student, teacher: scores before softmax, (B, h, L, L).
    """
    return _mean(_divergence(student, teacher, mask), mask[:, None].expand(student.shape[:3]))


def relation_kl(student: Tensor, teacher: Tensor, heads: int, mask: Tensor) -> Tensor:
    """KL of the self-relations of queries, keys or values: softmax(X Xᵀ / √d) for each of some relation heads.

    MiniLM's value relation (Wang et al. 2020, equations 7 to 9), with the attention heads; MiniLMv2's Q-Q, K-K and V-V relations
    (Wang et al. 2021, section 3.1), with any number of relation heads.

    Args:
        student: (B, L, m), teacher: (B, L, n); heads divides both m and n.
    """
    return _mean(_divergence(relations(student, heads), relations(teacher, heads), mask), mask[:, None].expand(-1, heads, -1))


def relations(vectors: Tensor, heads: int) -> Tensor:
    """(B, L, n) → (B, heads, L, L): scaled dot products of all pairs of tokens within each relation head."""
    split = vectors.unflatten(-1, (heads, -1)).transpose(1, 2)
    return split @ split.transpose(-1, -2) / split.shape[-1] ** 0.5


def patient(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of normalized [CLS] states, a mean over texts and layers: PKD's L_PT (Sun et al. 2019, equation 7).

    Args:
        student, teacher: (layers, B, n), the student's after its projection.
    """
    return ((functional.normalize(student, dim=-1) - functional.normalize(teacher, dim=-1)) ** 2).sum(-1).mean()


def vector_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − cosine of sentence vectors, (B, n) each: half the squared distance of vectors of length 1 (Reimers and Gurevych 2020,
    equation 1, for normalized vectors)."""
    return (1 - functional.cosine_similarity(student, teacher, dim=-1)).mean()


def similarity_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of the cosines of all pairs of different texts in a batch, (B, m) and (B, n): needs no equal sizes (Tung and
    Mori 2019, equation 4, on cosines)."""
    ours, theirs = functional.normalize(student, dim=-1), functional.normalize(teacher, dim=-1)
    different = ~torch.eye(len(ours), dtype=torch.bool, device=ours.device)
    return functional.mse_loss((ours @ ours.T)[different], (theirs @ theirs.T)[different])


def _divergence(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL of softmax over keys that count, (B, h, L)."""
    hidden = ~mask[:, None, None, :]
    smallest = torch.finfo(student.dtype).min
    ours = functional.log_softmax(student.masked_fill(hidden, smallest), -1)
    theirs = functional.log_softmax(teacher.masked_fill(hidden, smallest), -1)
    return (theirs.exp() * (theirs - ours).masked_fill(hidden, 0)).sum(-1)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)
