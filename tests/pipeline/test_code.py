from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import code


@pytest.fixture
def package(tmp_path: Path, monkeypatch):
    name = f"pkg_{tmp_path.name.replace('-', '_')}"
    (tmp_path / name).mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**files: str) -> str:
        for file, text in files.items():
            (tmp_path / name / f"{file}.py").write_text(text.replace("PKG", name))
        code._read.cache_clear()
        code._source.cache_clear()
        return code.code_digest(f"{name}.a")

    write.name = name
    yield write
    sys.modules.pop(name, None)


def test_docstrings_comments_and_layout_do_not_count(package):
    base = package(__init__="", a='"""Doc."""\nx = 1  # why\n\n\ndef f():\n    """Doc."""\n    return 1\n')
    assert base == package(a='"""Other."""\nx=1\ndef f():\n\n    return 1\n')
    assert base != package(a="x = 2\ndef f():\n    return 1\n")


def test_the_import_closure_counts_also_inside_functions(package):
    base = package(__init__="", a="def f():\n    from PKG import b\n", b="from .c import y\n", c="y = 1\n", d="z = 1\n")
    assert base == package(d="z = 2\n")
    assert base != package(c="y = 2\n")


def test_a_package_s_own_init_counts(package):
    assert package(__init__="A = 1\n", a="x = 1\n") != package(__init__="A = 2\n")


def test_extra_packages_count_with_all_their_modules(package):
    package(__init__="", a="x = 1\n", d="z = 1\n")
    base = code.code_digest("pipeline.contract", [package.name])
    package(d="z = 2\n")
    assert base != code.code_digest("pipeline.contract", [package.name])


def test_the_spine_and_installed_packages_do_not_count():
    assert code.code_digest("pipeline.errors") == code.code_digest("yaml") == code.code_digest("json")


def test_digesting_code_imports_no_library():
    heavy = ("torch", "lightning", "tvm", "onnx", "safetensors")
    script = "import sys; from pipeline.code import code_digest; code_digest('distill.student', ['models', 'compile'])\n"
    script += f"print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_stages_of_this_project_have_different_digests():
    assert code.code_digest("tests.pipeline.toy_source") != code.code_digest("tests.pipeline.toy_next")


@pytest.mark.parametrize("name", ["tiles.json", "main.c", "main.h"])
def test_a_table_or_a_source_in_c_beside_the_code_counts(name, tmp_path, monkeypatch):
    package = tmp_path / f"beside_{name.replace('.', '_')}"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / name).write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = code.code_digest(package.name)
    (package / name).write_text('{"a": 1}')
    assert code.code_digest(package.name) != before
