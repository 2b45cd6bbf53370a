from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from compile.candidates import Plan, build_parallel
from pipeline.errors import UsageError
from pipeline.target import Target


def test_a_build_that_is_refused_leaves_no_process(model_folder: Path, jetson: Target, tmp_path: Path):
    before = set(multiprocessing.active_children())
    with pytest.raises(UsageError, match=r"options\.dla"):
        list(build_parallel([Plan("tensorrt", "fp16", "gpu", options={"dla": True})], model_folder, jetson, tmp_path, 96))
    assert set(multiprocessing.active_children()) <= before
