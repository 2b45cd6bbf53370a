"""The digest of a stage's code: what it imports, directly or not, without docstrings, comments and layout.

The closure stops at ``pipeline.*`` (the contract version stands for it) and at everything that is installed rather than ours (the
toolchain versions stand for that).
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

OURS = frozenset({"data", "models", "train", "eval", "distill", "prune", "quantize", "compile", "targets", "search"})
_BESIDE = (".json", ".c", ".h")
_INSTALLED = tuple(str(Path(sysconfig.get_paths()[k]).resolve()) for k in ("stdlib", "purelib", "platlib"))


def code_digest(module: str, extra: Iterable[str] = ()) -> str:
    """64 hex digits over the code of ``module``, of its import closure, and of the modules or packages in ``extra``."""
    found = module_digests(module, extra)
    return hashlib.sha256("\n".join(f"{n} {d}" for n, d in found.items()).encode()).hexdigest()


def module_digests(module: str, extra: Iterable[str] = ()) -> dict[str, str]:
    """What ``code_digest`` is taken over: each module's name, sorted -> 64 hex digits over its code."""
    todo = [module, *(m for name in extra for m in _with_submodules(name))]
    seen: dict[str, str] = {}
    while todo:
        name = todo.pop()
        path = _source(name)
        if name in seen or path is None:
            continue
        digest, imports = _read(path, name)
        seen[name] = digest
        if path.name == "__init__.py":  # tables that a package's code reads, sources that it compiles
            beside = (file for file in path.parent.iterdir() if file.suffix in _BESIDE)
            seen |= {f"{name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in beside}
        todo += imports
        todo += [name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1)]
    return dict(sorted(seen.items()))


@cache
def _source(name: str) -> Path | None:
    """The file of a module whose code counts, or None."""
    root = name.partition(".")[0]
    if root in ("pipeline", "__future__") or root in sys.stdlib_module_names:
        return None
    if root in OURS or name == root:
        return _own_file(name)
    return _own_file(name) if _source(root) is not None else None  # finding a submodule imports its parents: never those of a library


def _own_file(name: str) -> Path | None:
    """The source file of a module that is not part of an installed library, or None."""
    parent = name.rpartition(".")[0]
    if parent and getattr(_source(parent), "name", "") != "__init__.py":
        return None  # a name inside a module, not a module; looking for it would import that module
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    path = Path(spec.origin).resolve()
    return path if name.partition(".")[0] in OURS or not str(path).startswith(_INSTALLED) else None


@cache
def _read(path: Path, name: str) -> tuple[str, tuple[str, ...]]:
    tree = ast.parse(path.read_bytes())
    imports = tuple(_imports(tree, name if path.name == "__init__.py" else name.rpartition(".")[0]))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            name = ".".join(filter(None, (base, node.module)))
            yield name
            yield from (f"{name}.{a.name}" for a in node.names)  # a submodule, or a name that _source finds no file for


def _with_submodules(name: str) -> Iterator[str]:
    yield name
    path = _source(name)
    if path is not None and path.name == "__init__.py":
        for child in sorted(path.parent.rglob("*.py")):
            parts = child.relative_to(path.parent).with_suffix("").parts
            yield ".".join([name, *(p for p in parts if p != "__init__")])
