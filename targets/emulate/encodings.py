"""Classes of aarch64 instructions by their encoding, and how many of each a library's code holds.

Masks from the encoding tables of the Arm Architecture Reference Manual (Advanced SIMD, data processing).
"""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

from pipeline.errors import UsageError

CLASSES: dict[str, tuple[tuple[int, int], ...]] = {
    # sdot, udot: vectors, and by element; usdot; smmla and ummla
    "dot": ((0x9FE0FC00, 0x0E809400), (0x9FC0F400, 0x0F80E000), (0xBFE0FC00, 0x0E809C00), (0xDFE0FC00, 0x4E80A400)),
    # smull, umull, smlal, umlal and their second halves: vectors, and by element
    "widening": ((0x9F20FC00, 0x0E20C000), (0x9F20FC00, 0x0E208000), (0x9F00F400, 0x0F00A000), (0x9F00F400, 0x0F002000)),
    # fmla and fmls of floats: vectors, and by element
    "fma": ((0xBF20FC00, 0x0E20CC00), (0xBF80B400, 0x0F801000)),
    # the same of halves
    "half": ((0xBF60FC00, 0x0E400C00), (0xBFC0B400, 0x0F001000)),
    # fmadd and its kind, fmul, and smaddl of single numbers: what a loop that was not vectorised multiplies with
    "scalar": ((0xFF000000, 0x1F000000), (0xFF20FC00, 0x1E200800), (0xFFE00000, 0x9B200000)),
    # loads and stores of any kind
    "memory": ((0x0A000000, 0x08000000),),
}
"""(mask, value) pairs: an instruction word is of the first class that has one with ``word & mask == value``, else "other"."""


def classify(words: bytes) -> Counter[str]:
    """Instructions by class in little-endian aarch64 code."""
    import numpy as np

    code = np.frombuffer(words, "<u4")
    left, found = np.ones(code.shape, bool), Counter[str]()
    for name, pairs in CLASSES.items():
        hit = left & np.logical_or.reduce([(code & mask) == value for mask, value in pairs])
        found[name] = int(hit.sum())
        left &= ~hit
    found["other"] = int(left.sum())
    return found


def code_of(path: Path) -> bytes:
    """The .text section of a 64-bit little-endian ELF file for aarch64; raises UsageError for any other file, or one without code."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", data, 18)[0] != 183:
        raise UsageError(str(path), "is no ELF file for aarch64", "pass a library that was built for such a board")
    table, size, count, names = (*struct.unpack_from("<Q", data, 40), *struct.unpack_from("<HHH", data, 58))
    sections = [struct.unpack_from("<IIQQQQ", data, table + k * size) for k in range(count)]
    start = sections[names][4]
    found = [s for s in sections if data[start + s[0] :].startswith(b".text\0")]
    if not found:
        raise UsageError(str(path), "has no .text section", "pass a library whose sections are kept")
    return b"".join(data[s[4] : s[4] + s[5]] for s in found)
