from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eval.quality import torch_restorer
from eval.restorers import AUTO_TILE, WHOLE_PIXELS, Restorer, halo_of, open_restorer
from pipeline.errors import UsageError
from tests.eval.model_example import photo, write_bundle, write_checkpoint


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A checkpoint, a bundle of the same network that takes any size, and one that takes 64 x 96 only."""
    folder = tmp_path_factory.mktemp("models")
    module = write_checkpoint(folder / "student.safetensors")
    write_bundle(folder / "free", module)
    write_bundle(folder / "run" / "bundle", module, (64, 96))
    return folder


@pytest.mark.parametrize("size", [(64, 96), (61, 83), (5, 3)])
def test_a_checkpoint_restores_as_the_evaluation_does(models, size):
    from models.checkpoint import load

    image = photo(*size)
    with open_restorer(models / "student.safetensors", threads=1) as restorer:
        out = restorer(image)
    expected = torch_restorer(load(models / "student.safetensors").module)(image)
    assert out.shape == image.shape
    assert out.dtype == np.uint8
    assert not np.array_equal(out, image)
    if min(size) > 16:
        assert np.abs(out.astype(int) - expected).max() <= 1


def test_checkpoint_and_bundle_agree(models):
    image = photo(64, 96)
    outs = []
    for name in ("student.safetensors", "free", "run"):
        with open_restorer(models / name, threads=1) as restorer:
            outs.append(restorer(image).astype(int))
    assert np.abs(outs[0] - outs[1]).max() <= 1
    assert np.abs(outs[0] - outs[2]).max() <= 1


def test_a_bundle_of_fixed_size_takes_any_image(models):
    seen = []
    with open_restorer(models / "run", threads=1) as restorer:
        out = restorer(photo(200, 150), lambda done, total: seen.append((done, total)))
        assert out.shape == (200, 150, 3)
        assert len(seen) == len(restorer.plan(200, 150)) > 4
        assert restorer(photo(10, 10)).shape == (10, 10, 3)


def test_descriptions_say_what_runs(models):
    with open_restorer(models / "student.safetensors", tile=64) as restorer:
        facts = restorer.describe()
    assert facts.pop("params") > 1000
    path = str(models / "student.safetensors")
    assert facts == {"name": path, "kind": "checkpoint", "arch": "student", "precision": "fp32", "backend": "torch", "tile": 64}
    with open_restorer(models / "run", faithful=True) as restorer:
        facts = restorer.describe()
    assert facts["name"] == str(models / "run" / "bundle")
    assert (facts["kind"], facts["backend"], facts["artifact"], facts["stands_in"]) == ("bundle", "onnxruntime", "onnxruntime-fp32", False)
    assert facts["tile"] == [64, 96]


def test_large_images_are_tiled_and_small_ones_are_whole():
    restorer = Restorer("x", {}, lambda lq: lq, multiple=16)
    assert len(restorer.plan(1080, 1920)) == 1
    assert WHOLE_PIXELS == 1088 * 1920
    large = restorer.plan(3000, 4000)
    assert (large.tile_height, large.tile_width) == (AUTO_TILE, AUTO_TILE)
    assert restorer.plan(500, 9000).tile_height == 512
    assert halo_of((1024, 512)) == 64
    assert halo_of((64, 96)) == 8


def test_a_closed_bundle_does_not_run(models):
    from pipeline.errors import StageFailed

    with open_restorer(models / "free") as restorer:
        pass
    with pytest.raises(StageFailed, match="session is closed"):
        restorer(photo(16, 16))


@pytest.mark.parametrize(
    ("name", "tile", "message"),
    [
        ("nothing", 0, "{path}: no such file or folder\nhint: name a checkpoint (.safetensors), a bundle folder, or a run directory"),
        ("text.txt", 0, "{path}: not a safetensors file"),
        ("empty", 0, "{path}: is a folder, but no bundle\nhint: name a checkpoint (.safetensors), a bundle folder, or a run directory"),
        ("student.safetensors", 30, "--tile: 30 is no multiple of"),
        ("run", 128, "--tile: 128, but {path}/bundle was built for 96x64 only\nhint: leave --tile out"),
    ],
)
def test_what_cannot_be_opened_is_said_in_two_lines(models, name, tile, message):
    (models / "text.txt").write_text("hello")
    (models / "empty").mkdir(exist_ok=True)
    with pytest.raises(UsageError) as e:
        open_restorer(models / name, tile=tile)
    assert str(e.value).startswith(message.format(path=models / name))
    assert str(e.value).count("\n") == 1


def test_a_damaged_bundle_is_refused(models, tmp_path):
    import shutil

    shutil.copytree(models / "free", tmp_path / "b")
    (tmp_path / "b" / "bench.py").write_text("changed")
    with pytest.raises(UsageError, match=r"'bench.py' is missing or differs from MANIFEST.sha256"):
        open_restorer(tmp_path / "b")


def test_a_bundle_opens_without_torch(models):
    code = (
        "import sys; from pathlib import Path; from eval.restorers import open_restorer; import numpy as np\n"
        f"open_restorer(Path({str(models / 'free')!r}), threads=1)(np.zeros((32, 32, 3), np.uint8)); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60).returncode == 0
