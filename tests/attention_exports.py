"""The operands of int8 attention, for the tests of what is to have the same codes."""

from __future__ import annotations

from numba.core import types

from tinybert_rt.kernels import attention_int8

_I = types.int64


def exports():
    """See `tinybert_rt.engine.emit.lower_to_module`."""
    prepare = {"prepare_keys": attention_int8._prepare_keys, "prepare_values": attention_int8._prepare_values}
    return [(name, function, types.float32, [_I] * 8) for name, function in prepare.items()]
