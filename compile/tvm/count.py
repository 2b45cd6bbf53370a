"""Which instructions a built network uses: counted from the assembly text that TVM's code generator writes, no disassembler needed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

CLASSES = {
    "dot": r"(sdot|udot|usdot|vpdpbusd)\b",
    "widening": r"(smull2?|smlal2?|umull2?|umlal2?|vpmaddwd)\b",
    "fma": r"(fmla|fmls)\s+v|v?f(n)?m(add|sub)\d+p[sdh]\b",
    "half": r"(fmla|fmul|fadd)\s+v\d+\.[48]h",
    "scalar": r"(f?n?madd|smaddl|smull|umull)\s+[wxshd]\d|v?f(n)?m(add|sub)\d+s[sd]\b|v?mul(ss|sd)\b",
}
"""Regular expressions of instructions by what they do; "scalar" is a multiplication of single numbers,
as in a loop that was not vectorised, though a few of them compute addresses."""

_LABEL = re.compile(r"^([.\w$]+):")
_CODE = re.compile(r"^\t([a-z][\w.]*(?:\s+\S.*)?)$")
_JUMP = re.compile(r"^(?:b|b\.\w+|cbn?z|tbn?z|j\w+)\s+(?:.*,\s*)?(\.?L\w+)$")


@dataclass(frozen=True, slots=True)
class Code:
    """The instructions of a piece of code by class, and how many there are in all."""

    classes: Counter[str]
    total: int


def assembly(executable: Any) -> str:
    """The assembly of everything that LLVM generated for an executable of ``tvm.compile``."""
    module = getattr(executable, "mod", executable)
    return "\n".join(m.inspect_source("asm") for m in _modules(module) if m.kind == "llvm")


def functions(text: str) -> dict[str, Code]:
    """Instructions of every function in an assembly text."""
    return {name: _count([line for _, line in lines]) for name, lines in _functions(text)}


def inner_loops(text: str) -> list[Code]:
    """Instructions of every innermost loop: from a label to the jump back to it, where no other such stretch lies between."""
    out = []
    for _, lines in _functions(text):
        position = {label: i for i, (label, _) in enumerate(lines) if label}
        spans = []
        for i, (_, line) in enumerate(lines):
            jump = _JUMP.match(line)
            if jump and position.get(jump[1], i + 1) <= i:
                spans.append((position[jump[1]], i))
        inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
        out += [_count([line for _, line in lines[first : last + 1]]) for first, last in inner]
    return out


def _functions(text: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Name and (label before it, instruction) of every function."""
    name, label = "", ""
    lines: list[tuple[str, str]] = []
    for raw in text.splitlines():
        line = re.split(r"\s*(?://|#|@ )", raw)[0].rstrip() if not raw.startswith("\t#") else ""
        found = _LABEL.match(line)
        if found and not found[1].startswith((".L", "L")):
            if name and lines:
                yield name, lines
            name, lines, label = found[1], [], ""
        elif found:
            label = found[1]
        elif name and _CODE.match(line):
            lines.append((label, line.strip()))
            label = ""
    if name and lines:
        yield name, lines


def _count(lines: list[str]) -> Code:
    return Code(Counter(name for line in lines for name, pattern in CLASSES.items() if re.match(pattern, line)), len(lines))


def _modules(module: Any) -> Iterator[Any]:
    yield module
    for inner in module.imports:
        yield from _modules(inner)
