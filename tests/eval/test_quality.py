from __future__ import annotations

import numpy as np
import pytest

from eval import quality
from pipeline.contract import Pair
from pipeline.errors import StageFailed

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (40, 48, 3), dtype=np.uint8)


class Source:
    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> Pair:
        return self.pairs[i]


def noisy(amount: int) -> np.ndarray:
    return np.clip(IMAGE.astype(int) + RNG.integers(-amount, amount + 1, IMAGE.shape), 0, 255).astype(np.uint8)


def test_psnr_of_a_known_error():
    other = IMAGE.copy()
    other[IMAGE < 128] += 10
    other[IMAGE >= 128] -= 10
    assert quality.psnr(IMAGE, other) == pytest.approx(10 * np.log10(255**2 / 100))


def test_identical_images_are_said_not_infinite():
    source = Source([Pair(noisy(9), IMAGE, "a", "a"), Pair(IMAGE, IMAGE, "b", "b")])
    result = quality.evaluate(lambda x: x, source)
    rows = {m.name: m for m in result.measurements()}
    assert result.psnr[1] == quality.IDENTICAL_DB and rows["psnr"].conditions["identical"] == 1
    assert np.isfinite(rows["psnr"].value) and rows["psnr_gain"].value == 0


def test_ssim_falls_with_noise_and_is_one_for_equal_images():
    assert quality.ssim(IMAGE, IMAGE) == pytest.approx(1)
    assert quality.ssim(IMAGE, noisy(20)) > quality.ssim(IMAGE, noisy(80))


def test_an_image_smaller_than_ssim_s_window_is_named():
    small = np.zeros((10, 30, 3), np.uint8)
    with pytest.raises(StageFailed, match="an image is 30x10 pixels, and SSIM needs 11 a side\nhint: leave it out"):
        quality.ssim(small, small)
    assert quality.ssim(IMAGE[:11, :11], IMAGE[:11, :11]) == pytest.approx(1)


def test_ssim_against_the_definition_written_out():
    """One window in the middle of a small image, computed by the formula of Wang et al. 2004."""
    a, b = IMAGE[:11, :11], noisy(40)[:11, :11]
    taps = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    window = np.outer(taps, taps) / taps.sum() ** 2
    expected = []
    for c in range(3):
        x, y = a[..., c].astype(float), b[..., c].astype(float)
        mx, my = (window * x).sum(), (window * y).sum()
        vx, vy, cov = (window * x * x).sum() - mx**2, (window * y * y).sum() - my**2, (window * x * y).sum() - mx * my
        expected.append((2 * mx * my + 6.5025) * (2 * cov + 58.5225) / ((mx**2 + my**2 + 6.5025) * (vx + vy + 58.5225)))
    from skimage.metrics import structural_similarity

    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    full = structural_similarity(a, b, channel_axis=2, data_range=255, **options)[1]
    assert full[5, 5] == pytest.approx(expected)


def test_the_official_3d_variant_is_another_number():
    other = noisy(60)
    assert quality.ssim(IMAGE, other, "official-3d") != pytest.approx(quality.ssim(IMAGE, other), abs=1e-3)
    assert quality.ssim(IMAGE, IMAGE, "official-3d") == pytest.approx(1)


def test_measurements_hold_the_per_image_values(tmp_path):
    pairs = [Pair(noisy(10 + 8 * i), IMAGE, f"s/{i}", "s") for i in range(7)]
    result = quality.evaluate(lambda x: x, Source(pairs), tmp_path)
    rows = {m.name: m for m in result.measurements()}
    assert rows["psnr"].values == result.psnr and rows["psnr"].samples == 7
    assert rows["psnr_worst5"].value == pytest.approx(np.mean(sorted(result.psnr)[:5]))
    assert rows["ssim"].conditions["variant"] == "2d"
    assert len(list((tmp_path / "s").glob("*.png"))) == 7


def test_a_gain_is_over_the_blurred_input():
    result = quality.evaluate(lambda x: IMAGE, Source([Pair(noisy(30), IMAGE, "a", "a")]))
    rows = {m.name: m.value for m in result.measurements()}
    assert rows["psnr_gain"] == pytest.approx(quality.IDENTICAL_DB - result.psnr_input[0])


@pytest.mark.parametrize("bad", [IMAGE[:-1], IMAGE.astype(np.float32)])
def test_a_restorer_that_changes_size_or_dtype_is_refused(bad):
    with pytest.raises(StageFailed, match="compare uint8 images of one size"):
        quality.evaluate(lambda x: bad, Source([Pair(IMAGE, IMAGE, "a", "a")]))


def test_an_empty_source_is_refused():
    with pytest.raises(StageFailed, match="has no pairs"):
        quality.evaluate(lambda x: x, Source([]))


def test_to_image_rounds_clamps_and_refuses_nan():
    batch = np.array([-0.2, 0.4999, 1.7], np.float32).reshape(1, 3, 1, 1)
    assert quality.to_image(batch).tolist() == [[[0, 127, 255]]]
    with pytest.raises(StageFailed, match="NaN or infinity"):
        quality.to_image(np.full((1, 3, 2, 2), np.nan, np.float32))
    assert np.array_equal(quality.to_image(quality.to_batch(IMAGE)), IMAGE)


@pytest.mark.parametrize(("size", "multiple"), [((5, 7), 8), ((3, 3), 16), ((16, 16), 8)])
def test_padding(size, multiple):
    padded = quality.pad_to_multiple(IMAGE[: size[0], : size[1]], multiple)
    assert padded.shape[0] % multiple == padded.shape[1] % multiple == 0
    assert np.array_equal(padded[: size[0], : size[1]], IMAGE[: size[0], : size[1]])
