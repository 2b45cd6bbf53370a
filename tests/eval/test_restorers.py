from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.quality import torch_restorer
from eval.receptive import GlobalOperation, Receptive
from eval.restorers import AUTO_TILE, LARGEST_TILE, WHOLE_PIXELS, Restorer, extended, module_receptive, open_restorer
from pipeline.errors import StageFailed, UsageError
from tests.eval.model_example import photo, write_bundle, write_checkpoint

HINT = "hint: name a checkpoint, published weights (.pth), a bundle folder, or a run directory"


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


@pytest.mark.parametrize("file", ["naf.pth", "naf.safetensors"])
@pytest.mark.parametrize("size", [(64, 96), (61, 83), (5, 3)])
def test_published_weights_are_padded_as_the_network_says(file, size, tmp_path):
    from safetensors.torch import save_file

    from models import load_checkpoint
    from tests.models.helpers import small

    network, image = small("nafnet"), photo(*size)
    save_file(network.state_dict(), tmp_path / "naf.safetensors")
    torch.save({"params": network.state_dict()}, tmp_path / "naf.pth")
    with open_restorer(tmp_path / file, threads=1) as restorer:
        out, facts = restorer(image), restorer.describe()
    assert (facts["kind"], facts["arch"]) == ("checkpoint", "nafnet")
    expected = torch_restorer(load_checkpoint(tmp_path / file).network)(image)
    assert out.flags.c_contiguous
    assert np.abs(out.astype(int) - expected).max() <= 1
    with open_restorer(tmp_path / file, threads=1, tile=32) as restorer:
        assert restorer(image).shape == image.shape


@pytest.mark.parametrize(("padding", "corner"), [("zero", (0, 0, 0)), ("replicate", (7, 8, 9)), ("reflect", None)])
def test_images_are_extended_right_and_bottom(padding, corner):
    image = np.arange(1, 19, dtype=np.uint8).reshape(3, 2, 3)[:1]
    image[0, 1] = 7, 8, 9
    longer = extended(image, 4, padding)
    assert longer.shape == ((4, 4, 3) if corner else image.shape)
    assert np.array_equal(longer[:1, :2], image)
    assert corner is None or tuple(longer[3, 3]) == corner
    assert extended(longer, 4, padding) is longer or corner is None


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
        assert "overlap" not in restorer.describe()
        out = restorer(photo(200, 150), lambda done, total: seen.append((done, total)))
        assert out.shape == (200, 150, 3)
        assert len(seen) == len(restorer.plan(200, 150)) > 4
        assert restorer(photo(300, 90)).shape == (300, 90, 3)
        why = (
            "the network sees 39 pixels far, tiles of 64 overlap by 16 on each side; "
            "2 x GlobalAveragePool draw on the whole image, here on its tile"
        )
        assert restorer.describe()["overlap"] == {"halo": 16, "blend": 16, "why": why}
        assert restorer(photo(10, 10)).shape == (10, 10, 3)
        assert "overlap" not in restorer.describe()


def test_a_checkpoint_in_tiles_overlaps_by_what_it_sees(models):
    image = photo(300, 451)
    with open_restorer(models / "student.safetensors", threads=1, tile=160) as restorer:
        out = restorer(image)
        assert restorer.describe()["overlap"]["halo"] == 39
    with open_restorer(models / "student.safetensors", threads=1) as restorer:
        whole = restorer(image).astype(int)
    assert np.abs(out - whole).max() <= 4  # it has squeeze-and-excite
    assert np.abs(out - whole).mean() < 0.5


def test_a_network_that_cannot_be_exported_is_not_cut():
    class Odd(torch.nn.Module):
        def forward(self, lq):
            return torch.linalg.svd(lq)[0] @ lq

    with pytest.raises(StageFailed, match="Odd: the network cannot be exported to ONNX, which tells how tiles must overlap"):
        module_receptive(Odd())


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


def sees(halo, whole=()):
    """How far a network sees, and how often it was asked."""
    asked = []

    def receptive():
        asked.append(1)
        return Receptive(halo, (halo,) * 4, tuple(whole))

    return receptive, asked


def test_large_images_are_tiled_and_small_ones_are_whole():
    receptive, asked = sees(50)
    restorer = Restorer("x", {}, lambda lq: lq, receptive, multiple=16)
    assert len(restorer.plan(1080, 1920)) == 1
    assert WHOLE_PIXELS == 1088 * 1920
    assert not asked, "an image that is not cut needs no halo"
    large = restorer.plan(3000, 4000)
    assert (large.tile_height, large.tile_width, large.blend) == (AUTO_TILE, AUTO_TILE, 0)
    assert restorer.plan(500, 9000).tile_height == 512
    assert len(asked) == 1


@pytest.mark.parametrize(("halo", "tile", "used"), [(300, 1200, 300), (360, 1440, 360), (500, 1440, 360)])
def test_tiles_grow_with_the_halo_as_far_as_memory_allows(halo, tile, used):
    restorer = Restorer("x", {}, lambda lq: lq, sees(halo)[0], multiple=16)
    plan = restorer.plan(3000, 4000)
    assert (plan.tile_height, plan.tile_width) == (tile, tile)
    assert LARGEST_TILE**2 < WHOLE_PIXELS
    overlap = restorer.describe()["overlap"]
    assert overlap["halo"] == used
    assert (overlap["blend"] > 0, overlap["why"] != "") == (used < halo, used < halo)


def test_statistics_over_the_image_are_mixed_at_the_cuts():
    pool = GlobalOperation("se/pool", "GlobalAveragePool", "it draws on the whole image")
    restorer = Restorer("x", {}, lambda lq: lq, sees(41, [pool])[0], fixed=(256, 256))
    plan = restorer.plan(600, 600)
    assert plan.blend == 40
    assert restorer.describe()["overlap"]["why"] == "1 x GlobalAveragePool draws on the whole image, here on its tile"


def test_what_tiles_cost_is_said_in_words():
    pool = GlobalOperation("se/pool", "GlobalAveragePool", "it draws on the whole image")
    norm = GlobalOperation("norm", "InstanceNormalization", "it draws on the whole image")
    cases = {
        (41, ()): "they overlap by 41 pixels a side, as far as the network sees, so nothing is lost",
        (90, ()): "they overlap by 64 pixels a side and are mixed over 64: the network sees 90 pixels far",
        (41, (pool,)): "and are mixed over 40: the network pools over the whole image once, here over each tile",
        (90, (pool,) * 3): "over 64: the network pools over the whole image 3 times, here over each tile, and sees 90 pixels far",
        (1, (pool, norm)): "they overlap by 1 pixels a side: the network draws on the whole image twice, here over each tile",
    }
    for (halo, whole), text in cases.items():
        restorer = Restorer("x", {}, lambda lq: lq, sees(halo, whole)[0], fixed=(256, 256))
        line = restorer.cutting(600, 700)
        assert line.endswith(text) and line.startswith("700x600 is cut into "), line
    assert restorer.cutting(256, 100) == ""
    large = Restorer("x", {}, lambda lq: lq, sees(41)[0], multiple=16)
    assert "1024x1024, it is larger than full HD;" in large.cutting(3000, 4000)


def test_a_closed_bundle_does_not_run(models):
    with open_restorer(models / "free") as restorer:
        pass
    with pytest.raises(StageFailed, match="session is closed"):
        restorer(photo(16, 16))


@pytest.mark.parametrize(
    ("name", "tile", "message"),
    [
        ("nothing", 0, f"{{path}}: no such file or folder\n{HINT}"),
        ("text.txt", 0, "{path}: is a text file, not weights (it begins with 'hello')"),
        ("vgg.pth", 0, "{path}: fits no known architecture; the nearest is "),
        ("empty", 0, f"{{path}}: is a folder, but no bundle\n{HINT}"),
        ("student.safetensors", 30, "--tile: 30 is no multiple of"),
        ("run", 128, "--tile: 128, but {path}/bundle was built for 96x64 only\nhint: leave --tile out"),
    ],
)
def test_what_cannot_be_opened_is_said_in_two_lines(models, name, tile, message):
    (models / "text.txt").write_text("hello")
    torch.save({"features.0.weight": torch.zeros(1)}, models / "vgg.pth")
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
