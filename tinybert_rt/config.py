"""Numbers and names that every layer shares: lanes, padding, activation functions."""

from __future__ import annotations

LANES = 16
"""Values of a vector, and output columns of one weight block."""

COLUMN_MULTIPLE = 64
"""Output columns, and the width of rows in memory, are padded to a multiple of this many elements."""

ACTIVATIONS = {"gelu": 0, "gelu_tanh": 1, "relu": 2}
