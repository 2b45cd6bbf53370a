"""Rules of the house that no linter checks: what may be rebound, asserted, imported and how large a file may grow."""

from __future__ import annotations

import ast
import builtins
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["pipeline", "data", "models", "train", "eval", "distill", "prune", "quantize", "compile", "targets", "search"]
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
ALL = SOURCES + sorted((ROOT / "tests").rglob("*.py")) + sorted((ROOT / "benchmarks").rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", ALL, ids=name)
def test_no_import_rebinds_a_builtin(path: Path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                assert bound not in dir(builtins), f"line {node.lineno}: import {alias.name}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_assert_outside_tests(path: Path):
    assert [n.lineno for n in ast.walk(tree(path)) if isinstance(n, ast.Assert)] == []


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_sizes_and_annotations(path: Path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 300
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name
            arguments = [a for a in node.args.args + node.args.kwonlyargs if a.arg not in ("self", "cls")]
            assert all(a.annotation is not None for a in arguments), node.name


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=name)
def test_what_a_benchmark_imports_is_there(path: Path):
    """No test runs the long ones; a module that has moved would be found by whoever starts them."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in (*PACKAGES, "benchmarks"):
            module = ROOT / str(node.module).replace(".", "/")
            source = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
            assert source.exists(), f"line {node.lineno}: {node.module}"
            missing = [a.name for a in node.names if not (module / f"{a.name}.py").exists() and a.name not in bound(source)]
            assert missing == [], f"line {node.lineno}: {node.module}"


def bound(path: Path) -> set[str]:
    """Names that a module defines or imports."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {a.asname or a.name for a in node.names}
    return found


def test_every_folder_of_modules_is_a_package():
    folders = {p.parent for p in ALL if "benchmarks" not in p.parts}
    assert [name(f) for f in folders if not (f / "__init__.py").exists()] == []


def test_importing_the_packages_loads_nothing_heavy():
    heavy = ("torch", "tvm", "onnx", "onnxruntime", "cv2", "numpy")
    code = f"import sys\nfor p in {PACKAGES!r}: __import__(p)\nprint([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_import_contracts_hold():
    done = subprocess.run([Path(sys.executable).parent / "lint-imports"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
