from __future__ import annotations

import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from compile.tvm.pins import FFI, TVM
from pipeline.errors import ToolchainMissing, UsageError
from targets.emulate import __main__ as command
from targets.emulate.sysroot import _unpack, build_sysroot, sysroot_folder
from targets.emulate.userlands import userland


def test_another_content_is_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DEBLUR_EDGE_CACHE", str(tmp_path))
    one = userland("bullseye")
    assert sysroot_folder(one).parent == tmp_path
    assert sysroot_folder(one) == sysroot_folder(replace(one))
    assert sysroot_folder(one) != sysroot_folder(replace(one, wheels=one.wheels[1:]))


def test_what_is_there_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DEBLUR_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    sysroot_folder(userland("bullseye")).mkdir()
    assert build_sysroot(userland("bullseye")) == sysroot_folder(userland("bullseye"))
    with pytest.raises(ToolchainMissing, match=r"emulate: there is no apt-get here\nhint: build the sysroot on Debian or Ubuntu"):
        build_sysroot(userland("bookworm"))
    assert not sysroot_folder(userland("bookworm")).exists()


@pytest.mark.parametrize("file", ["pyproject.toml", "targets/emulate/userlands.py", "targets/device/board/runtimes.py"])
def test_tvm_s_two_packages_are_everywhere_those_that_fit(file: str):
    text = (Path(__file__).parents[3] / file).read_text()
    assert set(re.findall(r"apache-tvm-ffi==([\w.]+)", text)) == {FFI[TVM[-1]]}
    assert all(version.startswith(TVM[-1]) for version in re.findall(r"apache-tvm[><=]=([\w.]+)", text))


def test_an_unknown_userland_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(UsageError, match=r"unknown userland 'bullsey'\nhint: did you mean 'bullseye'"):
        userland("bullsey")
    monkeypatch.setattr("sys.argv", ["emulate", "bullsey"])
    assert command.main() == 2
    assert "unknown userland 'bullsey'" in capsys.readouterr().err


def test_a_wheel_is_unpacked_without_what_is_left_out(tmp_path: Path):
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a/code.py", "1")
        archive.writestr("a/3rdparty/large.h", "2")
    _unpack(wheel, tmp_path / "site", ("a/3rdparty/*",))
    assert [p.name for p in (tmp_path / "site").rglob("*") if p.is_file()] == ["code.py"]
