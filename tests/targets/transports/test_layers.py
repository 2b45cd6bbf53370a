"""Who needs whom among the transports, for types too: never in a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import targets.transports

FOLDER = Path(targets.transports.__file__).parent
ROOT = "targets.transports."


def needs(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return {name.removeprefix(ROOT) for name in found if name.startswith(ROOT)}


def test_no_module_needs_itself_over_others():
    graph = {".".join(p.relative_to(FOLDER).with_suffix("").parts): needs(p) for p in FOLDER.rglob("*.py") if p.stem != "__init__"}
    order = [name for name in TopologicalSorter(graph).static_order() if name in graph]
    assert order.index("common.board") < order.index("common.line") < order.index("common.shell") < order.index("ssh")
