"""Versions of TVM that do not fit each other are refused before anything is built."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from compile.tvm import BACKEND, pins
from eval.session import BuildRequest
from pipeline.errors import ToolchainMissing
from pipeline.target import load_target


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(name: str) -> str:
        if name.replace("-", "_") not in versions:
            raise PackageNotFoundError(name)
        return versions[name.replace("-", "_")]

    monkeypatch.setattr(pins.importlib.metadata, "version", version)


@pytest.mark.parametrize(("tvm", "ffi"), [("0.26.0", "0.1.15.post1"), ("0.27.0.post1", "0.1.14.post1"), ("0.25.0", "0.1.13.post3")])
def test_a_misfit_is_refused_with_the_fix(tvm: str, ffi: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    installed(monkeypatch, apache_tvm=tvm, apache_tvm_ffi=ffi)
    request = BuildRequest(tmp_path, "int8", 64, 64, load_target("host"), tmp_path, for_host=True)
    want = rf'pip install "apache-tvm==0.26.\*" "apache-tvm-ffi==0.1.13.post3" \(found {tvm} and {ffi}, which do not fit\)'
    with pytest.raises(ToolchainMissing, match=want):
        BACKEND.build(request)


def test_what_fits_and_what_is_absent_say_nothing(monkeypatch: pytest.MonkeyPatch):
    installed(monkeypatch, apache_tvm="0.26.0", apache_tvm_ffi="0.1.13.post3")
    assert pins.misfit() == ""
    installed(monkeypatch, apache_tvm="0.26.0")
    assert pins.misfit() == ""
