from __future__ import annotations

from pathlib import Path

import numpy as np

from compile.null import BACKEND
from eval.session import BuildRequest, open_session
from pipeline.target import load_target


def test_it_hands_back_an_image_of_any_size(model_folder: Path, tmp_path: Path):
    built = BACKEND.build(BuildRequest(model_folder, "fp32", 64, 64, load_target("host"), tmp_path))
    assert built.path.stat().st_size > 0
    with open_session(built.path, built.facts, threads=3) as session:
        for shape in ((1, 3, 64, 64), (2, 3, 5, 7)):
            lq = np.random.default_rng(0).random(shape, np.float32)
            assert np.array_equal(session.run(lq), lq)


def test_no_target_names_it():
    from pipeline.target import known_targets

    assert not any(b.use == "null" for name in known_targets() for b in load_target(name).backends)
