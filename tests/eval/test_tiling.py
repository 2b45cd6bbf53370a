from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eval.quality import to_batch, to_image
from eval.receptive import GlobalOperation, Receptive
from eval.tiling import Overlap, mirrored, overlap_for, restore_bands, restore_tiled, roomy_tile, tile_plan
from pipeline.errors import StageFailed, UsageError

RECEPTIVE = 20  # of Local below: 3x3 + 3x3 at stride 2 + 3x3 at stride 4 and the way back


class Local(nn.Module):
    """A U-shaped network of strided and transposed convolutions, with zero padding and no global operation."""

    size_multiple = 4

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 6, 2, 2), nn.ReLU(), nn.ConvTranspose2d(6, 3, 2, 2))

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        return 0.4 + 0.2 * lq + 8 * self.up(self.down(lq))


@pytest.fixture(scope="module")
def run():
    module = Local().eval()

    def call(lq: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(lq)).numpy()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny convolutions: more threads only wait for each other
    yield call
    torch.set_num_threads(threads)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)


@settings(deadline=None)
@given(
    height=st.integers(1, 400), width=st.integers(1, 400), units=st.integers(1, 40), wide=st.integers(1, 40), halo=st.integers(0, 60),
    multiple=st.sampled_from([1, 2, 8, 16]),
)  # fmt: skip
def test_every_pixel_is_kept_exactly_once_and_far_from_inner_edges(height, width, units, wide, halo, multiple):
    tile = (units * multiple, wide * multiple)
    try:
        plan = tile_plan(height, width, tile, halo, multiple)
    except UsageError:
        padded = [-(-n // multiple) * multiple for n in (height, width)]
        assert any(t - 2 * halo < multiple and p > t for t, p in zip(tile, padded, strict=True))
        return
    count = np.zeros((height, width), int)
    for t in (t for row in plan.rows for t in row):
        count[t.top : t.bottom, t.left : t.right] += 1
        assert t.y % multiple == t.x % multiple == 0
        for start, low, high, size, side in ((t.y, t.top, t.bottom, height, tile[0]), (t.x, t.left, t.right, width, tile[1])):
            assert start <= low < high <= start + side
            assert low == 0 or low - start >= halo
            assert high == size or start + side - high >= halo
    assert (count == 1).all()


@settings(max_examples=15, deadline=None)
@given(height=st.integers(48, 200), width=st.integers(48, 200), tile=st.sampled_from([48, 64, (48, 96)]))
def test_tiled_is_whole_when_the_halo_covers_the_receptive_field(run, height, width, tile):
    tall, wide = (tile, tile) if isinstance(tile, int) else tile
    height, width = max(height, tall), max(width, wide)
    image = noise(height, width)
    whole_plan = tile_plan(height, width, (-(-height // 4) * 4, -(-width // 4) * 4), 0, 4)
    whole = restore_tiled(image, run, whole_plan)
    tiled = restore_tiled(image, run, tile_plan(height, width, tile, RECEPTIVE, 4))
    assert np.abs(whole.astype(int) - tiled).max() <= 1


def test_a_halo_too_small_for_the_network_shows(run):
    image = noise(200, 200)
    whole = to_image(run(to_batch(image)))
    tiled = restore_tiled(image, run, tile_plan(200, 200, 48, 0, 4))
    assert np.abs(whole.astype(int) - tiled).max() > 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 70), (30, 200), (7, 9), (64, 64)])
def test_images_smaller_than_a_tile_are_mirrored(height, width):
    image = noise(height, width)
    seen = []

    def keep(lq: np.ndarray) -> np.ndarray:
        seen.append(to_image(lq))
        return lq

    assert np.array_equal(restore_tiled(image, keep, tile_plan(height, width, 64, 16, 8)), image)
    assert {s.shape for s in seen} == {(64, 64, 3)}
    assert np.array_equal(seen[0], np.pad(image, ((0, max(0, 64 - height)), (0, max(0, 64 - width)), (0, 0)), mode="reflect")[:64, :64])


@given(st.integers(0, 50), st.integers(1, 80), st.integers(1, 30))
def test_mirroring_is_numpys_reflection(start, count, size):
    padded = np.pad(np.arange(size), (0, start + count), mode="reflect" if size > 1 else "edge")
    assert np.array_equal(mirrored(start, count, size), padded[start : start + count])


def test_bands_come_in_order_with_progress_and_bounded_height():
    image, seen = noise(300, 130), []
    plan = tile_plan(300, 130, 64, 8, 8)
    bands = list(restore_bands(image, lambda lq: lq, plan, lambda done, total: seen.append((done, total))))
    assert [b.y for b in bands] == [row[0].top for row in plan.rows]
    assert max(len(b.pixels) for b in bands) <= 64
    assert np.array_equal(np.concatenate([b.pixels for b in bands]), image)
    assert seen == [(i + 1, len(plan)) for i in range(len(plan))]


def test_nothing_runs_before_it_is_asked_for():
    calls = []

    def count(lq: np.ndarray) -> np.ndarray:
        calls.append(1)
        return lq

    plan = tile_plan(256, 64, 64, 8, 8)
    bands = restore_bands(noise(256, 64), count, plan)
    next(bands)
    assert len(calls) == len(plan.rows[0]) < len(plan)


def test_nan_is_never_painted():
    with pytest.raises(StageFailed, match="NaN"):
        restore_tiled(noise(64, 64), lambda lq: lq * np.float32(np.nan), tile_plan(64, 64, 64, 8, 8))


@pytest.mark.parametrize(
    ("tile", "halo", "message"),
    [
        (30, 4, "tile: 30 is no multiple of the network's size multiple 8\nhint: use a positive multiple, e.g. 32"),
        (0, 4, "tile: 0 is no multiple of the network's size multiple 8\nhint: use a positive multiple, e.g. 8"),
        (64, 32, "tile: 64 pixels leave nothing inside a halo of 32 on both sides\nhint: use tiles of at least 72 pixels"),
    ],
)
def test_impossible_tiles_are_refused(tile, halo, message):
    with pytest.raises(UsageError) as e:
        tile_plan(200, 200, tile, halo, 8)
    assert str(e.value) == message


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 300), width=st.integers(1, 300), units=st.integers(6, 12), halo=st.integers(2, 24),
    multiple=st.sampled_from([1, 8]),
)  # fmt: skip
def test_mixing_what_is_equal_changes_nothing(height, width, units, halo, multiple):
    plan = tile_plan(height, width, 8 * units, min(halo, 2 * units), multiple, blend=halo)
    image = noise(height, width)
    bands = list(restore_bands(image, lambda lq: lq, plan))
    assert np.array_equal(np.concatenate([b.pixels for b in bands]), image)
    assert [b.y for b in bands] == np.cumsum([0, *(len(b.pixels) for b in bands)]).tolist()[:-1]


@pytest.mark.parametrize("upright", [True, False])
def test_a_step_between_tiles_becomes_a_ramp(upright):
    shape = (300, 64) if upright else (64, 300)
    plan = tile_plan(*shape, 64, 16, 8, blend=16)
    count = len(plan)
    assert (plan.blend, count) == (16, 9)
    levels = iter(range(count))

    def flat(lq: np.ndarray) -> np.ndarray:
        return np.full_like(lq, 20 * next(levels) / 255)

    out = restore_tiled(np.zeros((*shape, 3), np.uint8), flat, plan)
    line = (out if upright else out.transpose(1, 0, 2))[:, 0, 0].astype(int)
    steps = np.diff(line)
    assert (line[0], line[-1]) == (0, 20 * (count - 1))
    assert 0 <= steps.min() <= steps.max() <= 2, "20 levels over 16 pixels"
    cut = plan.rows[0][0].right if not upright else plan.rows[0][0].bottom
    assert line[cut - 8 - 1] == 0
    assert line[cut + 8] == 20


def test_mixed_tiles_never_paint_nan():
    with pytest.raises(StageFailed, match="NaN"):
        restore_tiled(noise(200, 200), lambda lq: lq * np.float32(np.nan), tile_plan(200, 200, 64, 8, 8, blend=8))


def test_the_overlap_is_what_the_network_sees():
    pool = GlobalOperation("pool", "GlobalAveragePool", "it draws on the whole image")
    local, gated = Receptive(51, (51, 45, 51, 45)), Receptive(51, (51, 45, 51, 45), (pool, pool))
    assert overlap_for(local, 256) == Overlap(51, 0)
    assert overlap_for(gated, 256) == Overlap(51, 50, "2 x GlobalAveragePool draw on the whole image, here on its tile")
    assert overlap_for(local, 128) == Overlap(32, 32, "the network sees 51 pixels far, tiles of 128 overlap by 32 on each side")
    assert overlap_for(gated, 128).why.count(";") == 1
    assert (roomy_tile(local, 256, 8), roomy_tile(local, 128, 8), roomy_tile(local, 1, 16)) == (256, 208, 208)
    assert overlap_for(local, roomy_tile(local, 1, 8)).halo == 51


def test_an_image_of_another_size_is_refused():
    with pytest.raises(UsageError, match="image: is 20x10, the plan is for 10x10"):
        restore_tiled(noise(10, 20), lambda lq: lq, tile_plan(10, 10, 16, 0))
    with pytest.raises(UsageError, match="at least one pixel"):
        tile_plan(0, 5, 16, 0)
