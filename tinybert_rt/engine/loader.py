"""Object files of compiled kernels into executable memory, without LLVM: sections side by side, relocations applied.

The objects refer to no outside symbol (`tests/test_isa.py`), so this needs nothing of a linker but the few relocations that LLVM
emits for position-independent x86-64 code. Format: ELF-64, "System V Application Binary Interface, AMD64 Architecture Processor
Supplement", section 4.4.
"""

from __future__ import annotations

import mmap
import struct

from tinybert_rt.engine.declarations import ffi
from tinybert_rt.engine.system import system
from tinybert_rt.errors import CompileError

_SHT_PROGBITS, _SHT_SYMTAB, _SHT_RELA, _SHT_NOBITS = 1, 2, 4, 8
_SHF_WRITE, _SHF_ALLOC = 1, 2
_R_64, _R_PC32, _R_PLT32 = 1, 2, 4
_EM_X86_64 = 62
_PROT_READ_EXEC = 1 | 4

_Section = tuple[int, int, int, int, int, int, int, int, int, int]


class LoadedObject:
    """One object file, ready to run. Keep it alive as long as its addresses are used."""

    def __init__(self, data: bytes) -> None:
        try:
            self._load(data)
        except (struct.error, ValueError, IndexError, OverflowError, OSError) as error:
            raise CompileError(f"a compiled object cannot be loaded: {error}") from error

    def _load(self, data: bytes) -> None:
        sections = _sections(data)
        # Where each section that takes memory lies in the image.
        places: dict[int, int] = {}
        size = 0
        for index, section in enumerate(sections):
            _, kind, flags, _, _, length, _, _, align, _ = section
            if flags & _SHF_ALLOC and kind in (_SHT_PROGBITS, _SHT_NOBITS):
                if flags & _SHF_WRITE and kind == _SHT_NOBITS:
                    raise ValueError("it has variables")
                size = -(-size // max(align, 1)) * max(align, 1)
                places[index] = size
                size += length
        self._memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        base = int(ffi.cast("intptr_t", ffi.from_buffer(self._memory)))
        for index, place in places.items():
            _, kind, _, _, offset, length, _, _, _, _ = sections[index]
            if kind == _SHT_PROGBITS:
                self._memory[place : place + length] = data[offset : offset + length]
        symbols = _symbols(data, sections)
        for section in sections:
            if section[1] == _SHT_RELA and section[7] in places:
                self._relocate(data, section, places, symbols, base)
        self._addresses = {name: base + places[where] + value for name, where, value in symbols if name and where in places}
        if system is None or system.mprotect(ffi.cast("void *", base), len(self._memory), _PROT_READ_EXEC) != 0:
            raise CompileError("the system does not allow memory to become executable: compiled kernels cannot run here")

    def _relocate(self, data: bytes, section: _Section, places: dict[int, int], symbols: list[tuple[str, int, int]], base: int) -> None:
        begin, length, target = section[4], section[5], places[section[7]]
        for offset, info, addend in struct.iter_unpack("<QQq", data[begin : begin + length]):
            kind = info & 0xFFFFFFFF
            name, where, value = symbols[info >> 32]
            if where not in places:
                raise ValueError(f"the symbol {name!r} is not defined in it")
            at = target + offset
            wanted = base + places[where] + value + addend
            if kind in (_R_PC32, _R_PLT32):
                struct.pack_into("<i", self._memory, at, wanted - (base + at))
            elif kind == _R_64:
                struct.pack_into("<Q", self._memory, at, wanted)
            else:
                raise ValueError(f"relocation {kind}")

    def address(self, name: str) -> int | None:
        """The address of a symbol, or None."""
        return self._addresses.get(name)


def loadable(data: bytes) -> bool:
    """Whether this module can load the object: ELF-64 for x86-64."""
    return len(data) >= 64 and data[:6] == b"\x7fELF\x02\x01" and struct.unpack_from("<H", data, 18)[0] == _EM_X86_64


def _sections(data: bytes) -> list[_Section]:
    """name, type, flags, address, offset, size, link, info, alignment, entry size of each section header."""
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    return [struct.unpack_from("<IIQQQQIIQQ", data, start + size * index) for index in range(count)]


def _symbols(data: bytes, sections: list[_Section]) -> list[tuple[str, int, int]]:
    """Name, section and offset in it of each symbol."""
    table = next((section for section in sections if section[1] == _SHT_SYMTAB), None)
    if table is None:
        raise ValueError("it has no symbols")
    names = sections[table[6]][4]
    symbols = []
    for name, _, _, where, value, _ in struct.iter_unpack("<IBBHQQ", data[table[4] : table[4] + table[5]]):
        start = names + name
        symbols.append((data[start : data.index(b"\0", start)].decode(), where, value))
    return symbols
