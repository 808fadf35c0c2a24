"""Numba kernels → one LLVM module → one native object per instruction-set level.

Numba types and lowers each kernel into an LLVM module of its own. Nothing is optimised or linked on the way: all
modules are linked at the end, everything but the exports is made internal, and LLVM's O3 pipeline runs once. The object
refers to no symbol of Python or Numba.

This module patches Numba's CPU target, so it runs in a process of its own: `python -m tinybert_rt.engine.emit LEVEL MODULE`.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import compiler, types
from numba.core.codegen import AOTCodeLibrary, AOTCPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from tinybert_rt.engine.abi import PREFIX
from tinybert_rt.isa.levels import IsaLevel, level_by_name, llvm_features
from tinybert_rt.isa.lowering import activate
from tinybert_rt.kernels.jit import OUTLINED, entry_flags

_TRIPLES = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}


class _CollectedLibrary(AOTCodeLibrary):
    """The code of one kernel, kept unoptimised until all are linked."""

    collected: ClassVar[list[_CollectedLibrary]] = []

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(codegen, name)
        self.collected.append(self)

    def add_llvm_module(self, ll_module: Any) -> None:
        self._final_module.link_in(ll_module)

    def finalize(self) -> None:
        self._finalized = True


class _CollectingCodegen(AOTCPUCodegen):
    _library_class = _CollectedLibrary


def _placeholder_entry_point(library: Any, fndesc: Any, env: Any) -> Any:
    """Stands for the address of compiled code, which is never called here. Numba finds a kernel by it, so each is another."""
    return [].append


@global_compiler_lock
def lower_to_module(level: IsaLevel, functions: Sequence[tuple[str, Any, Any, Sequence[Any]]]) -> Any:
    """Compile kernels and what they call to one unoptimised LLVM module.

    Args:
        level: the instruction-set level to emit for.
        functions: exported name, kernel, Numba result type, Numba argument types.
    """
    activate(level)
    context = cpu_target.target_context
    typing_context = cpu_target.typing_context
    context.refresh()
    typing_context.refresh()
    context._internal_codegen = _CollectingCodegen("tinybert_rt")
    context.get_executable = _placeholder_entry_point

    wrappers = ir.Module("tinybert_rt.exports")
    wrappers.triple = llvm.get_process_triple()
    _CollectedLibrary.collected.clear()
    for name, kernel, result, arguments in functions:
        compiled = compiler.compile_extra(typing_context, context, kernel.py_func, tuple(arguments), result, entry_flags(), locals={})
        _add_export(wrappers, context, name, compiled.fndesc)

    module = llvm.parse_assembly(str(wrappers))
    for library in _CollectedLibrary.collected:
        module.link_in(library._final_module)
    tokens = [f"{len(name)}{name}B" for name in OUTLINED]  # as a mangled name has it
    for function in module.functions:
        if any(token in function.name for token in tokens):
            function.add_function_attribute("noinline")
    return module


def _add_export(module: ir.Module, context: Any, name: str, fndesc: Any) -> None:
    """A C function that calls a Numba function: (ret*, excinfo*, args…) → status becomes args… → ret."""
    function_type = context.call_conv.get_function_type(fndesc.restype, fndesc.argtypes)
    callee = ir.Function(module, function_type, fndesc.mangled_name)
    c_arguments = function_type.args[2:]
    returns = function_type.args[0].pointee
    void = fndesc.restype == types.void
    export = ir.Function(module, ir.FunctionType(ir.VoidType() if void else returns, c_arguments), name)
    builder = ir.IRBuilder(export.append_basic_block("entry"))
    result = builder.alloca(returns)
    builder.store(ir.Constant(returns, None), result)
    exception = builder.alloca(function_type.args[1].pointee)
    builder.call(callee, [result, exception, *export.args])
    if void:
        builder.ret_void()
    else:
        builder.ret(builder.load(result))


def target_machine(level: IsaLevel, triple: str | None = None) -> Any:
    """LLVM's target machine for a level: as this machine has it, or, for a triple, as any machine of the level has it."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(triple or _TRIPLES[level.architecture])
    features = llvm_features(level) if triple is None else level.alternatives[0].llvm_features
    return target.create_target_machine(cpu=level.llvm_cpu, features=features, opt=3, reloc="pic", codemodel="small")


def optimise(module: Any, level: IsaLevel, exports: Sequence[str], triple: str | None = None) -> tuple[Any, Any]:
    """Link-time optimisation of the whole module. Returns the module and its target machine."""
    machine = target_machine(level, triple)
    module.triple = triple or _TRIPLES[level.architecture]
    module.data_layout = str(machine.target_data)
    kept = set(exports)
    for function in module.functions:
        if function.is_declaration:
            continue
        if function.name not in kept:
            function.linkage = "internal"
        elif triple is not None:
            function.visibility = "hidden"
    for variable in module.global_variables:
        if not variable.is_declaration:
            variable.linkage = "internal"
    text = str(module)
    width = f'"prefer-vector-width"="{level.vector_bits}" "min-legal-vector-width"="{level.vector_bits}"'
    text = _with_function_attributes(text, width)
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = False
    options.slp_vectorization = False
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    return module, machine


def _with_function_attributes(text: str, attributes: str) -> str:
    """Add attributes to every function definition of an LLVM module's text."""
    lines = []
    for line in text.split("\n"):
        if line.startswith("define ") and line.endswith("{"):
            line = line[:-1] + attributes + " {"
        lines.append(line)
    return "\n".join(lines)


def emit(
    level: IsaLevel, functions: Sequence[tuple[str, Any, Any, Sequence[Any]]], triple: str | None = None, *, assembly: bool = False
) -> bytes:
    """The relocatable object with the exported `functions`, see `lower_to_module`; or its assembly, to look at."""
    module = lower_to_module(level, functions)
    module, machine = optimise(module, level, [each[0] for each in functions], triple)
    return machine.emit_assembly(module).encode() if assembly else bytes(machine.emit_object(module))


def main(arguments: Sequence[str]) -> int:
    """Write the object with the functions of MODULE.exports(UNIT) to standard output."""
    parser = argparse.ArgumentParser(prog="emit", description=main.__doc__)
    parser.add_argument("level")
    parser.add_argument("source", metavar="MODULE[:UNIT]")
    parser.add_argument("--triple", help="emit for another platform, for any machine of the level, with hidden symbols")
    parser.add_argument("--prefix", default=PREFIX, help="what the names of the functions begin with")
    parser.add_argument("--assembly", action="store_true")
    options = parser.parse_args(arguments)
    level = level_by_name(options.level)
    activate(level)  # before the kernels are imported: their tile sizes are constants
    gc.disable()  # the process is short-lived; collecting costs a sixth of its time
    module, *unit = options.source.split(":")
    functions = importlib.import_module(module).exports(*unit)
    if options.prefix != PREFIX:
        functions = [(options.prefix + name.removeprefix(PREFIX), *rest) for name, *rest in functions]
    sys.stdout.buffer.write(emit(level, functions, options.triple, assembly=options.assembly))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
