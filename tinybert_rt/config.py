"""Numbers and names that every layer shares: lanes, padding, activation functions."""

from __future__ import annotations

LANES = 16
"""Values of a vector, and output columns of one weight block."""

COLUMN_MULTIPLE = 64
"""Output columns, and the width of rows in memory, are padded to a multiple of this many elements."""

ACTIVATIONS = {"gelu": 0, "gelu_tanh": 1, "relu": 2}
"""Between the two linear layers of a feed-forward block."""

HEAD_ACTIVATIONS = {"none": 0, "tanh": 1, "gelu": 2, "relu": 3}
"""Between the dense layer and the output layer of a head ("none": there is no dense layer), and behind a convolution."""
