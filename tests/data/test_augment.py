import numpy as np
import pytest
from pydantic import ValidationError

from data.augment import Augment, Jitter, resized
from data.crops import CropDataset
from tests.data.helpers import psnr, texture
from tests.data.test_crops import Numbered, numbers, same

UPRIGHT = {"hflip": False, "vflip": False, "rot90": False}


class Coloured(Numbered):
    """Smooth colour pictures; lq equals gt."""

    def __getitem__(self, index):
        pair = super().__getitem__(index)
        picture = texture(self.height, self.width, seed=index)
        return type(pair)(picture, picture.copy(), pair.name, pair.scene)


def crops(count=60, source=None, **options):
    dataset = CropDataset(source or Numbered(), 16, 1, count, Augment(**options))
    return [dataset[k] for k in range(count)]


def orientations(**options):
    """(red falls down, green falls right, red runs along columns) of every crop: an orientation each."""
    found = set()
    for lq, _ in map(numbers, crops(200, **options)):
        found.add((int(np.sign(lq[0, -1, -1] - lq[0, 0, 0])), int(np.sign(lq[1, -1, -1] - lq[1, 0, 0])), bool(lq[0, 0, 0] == lq[0, 0, 1])))
    return found


def test_defaults_draw_what_they_always_drew():
    """The order of draws is pinned: top, left, quarter turns, mirror."""
    for k, (lq, _) in enumerate(crops(20)):
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([1, k])))
        top, left, turns, mirror = (int(rng.integers(n)) for n in (40 - 16 + 1, 52 - 16 + 1, 4, 2))
        y, x = np.mgrid[top : top + 16, left : left + 16]
        cut = np.dstack([y, x])
        assert np.array_equal(numbers([lq])[0][:2], np.rot90(cut[:, ::-1] if mirror else cut, turns).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        ({}, {(1, 1, True)}),
        ({"hflip": True}, {(1, 1, True), (1, -1, True)}),
        ({"vflip": True}, {(1, 1, True), (-1, 1, True)}),
        ({"hflip": True, "vflip": True}, {(1, 1, True), (1, -1, True), (-1, 1, True), (-1, -1, True)}),
        ({"rot90": True}, {(1, 1, True), (-1, -1, True), (1, -1, False), (-1, 1, False)}),
    ],
)
def test_orientations(on, expected):
    assert orientations(**{**UPRIGHT, **on}) == expected


@pytest.mark.parametrize("flip", ["hflip", "vflip"])
def test_turns_and_a_mirror_give_all_eight(flip):
    assert len(orientations(**{**UPRIGHT, "rot90": True, flip: True})) == 8


@pytest.mark.parametrize(
    "extra",
    [{"channel_shuffle": True}, {"jitter": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.5}}, {"scale": (0.5, 2)}],
    ids=["channels", "jitter", "scale"],
)
def test_both_images_are_changed_alike(extra):
    plain, changed = crops(12, Coloured()), crops(12, Coloured(), **extra)
    assert all(np.array_equal(lq, gt) for lq, gt in changed)
    assert sum(same(a, b) for a, b in zip(plain, changed, strict=True)) <= 4  # one in six orders of the channels is the old one
    assert all(x.dtype == np.float32 and x.shape == (3, 16, 16) and 0 <= x.min() <= x.max() <= 1 for pair in changed for x in pair)


def test_same_seed_and_k_give_the_same_changes():
    everything = {"channel_shuffle": True, "jitter": {"brightness": 0.3}, "scale": (0.5, 2), "noise": (0, 0.1)}
    first, again = crops(8, **everything), crops(8, **everything)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))


def test_channels_are_shuffled_in_every_order():
    orders = {
        tuple(np.argsort(lq.mean((1, 2)))) for lq, _ in crops(100, Numbered(count=1, height=16, width=200), channel_shuffle=True, **UPRIGHT)
    }
    assert len(orders) == 6


def test_brightness_is_one_factor_within_its_strength():
    plain, changed = crops(40, Coloured(), **UPRIGHT), crops(40, Coloured(), jitter={"brightness": 0.2}, **UPRIGHT)
    factors = []
    for (before, _), (after, _) in zip(plain, changed, strict=True):
        inside = (after < 1) & (before > 0.05)
        ratio = after[inside] / before[inside]
        assert np.ptp(ratio) < 1e-5
        factors.append(ratio.mean())
    assert 0.8 <= min(factors) < 0.85
    assert 1.15 < max(factors) <= 1.2


def test_contrast_keeps_the_mean_grey_and_saturation_each_pixels_grey():
    luma = np.array([0.299, 0.587, 0.114])
    grey = np.array([0.4, 0.5, 0.6], np.float32)[:, None, None] + np.linspace(-0.1, 0.1, 64, dtype=np.float32).reshape(8, 8)
    seeds = np.random.SeedSequence([3, 4])
    more, _ = Augment(jitter=Jitter(contrast=0.5)).recolour(grey, grey, seeds)
    assert np.tensordot(luma, more, 1).mean() == pytest.approx(np.tensordot(luma, grey, 1).mean(), abs=1e-6)
    assert more.std() != pytest.approx(grey.std(), rel=0.01)
    richer, _ = Augment(jitter=Jitter(saturation=0.5)).recolour(grey, grey, seeds)
    assert np.allclose(np.tensordot(luma, richer, 1), np.tensordot(luma, grey, 1), atol=1e-6)
    assert np.ptp(richer.mean((1, 2))) != pytest.approx(np.ptp(grey.mean((1, 2))), rel=0.01)


def test_noise_is_on_the_blurred_image_alone_and_as_strong_as_asked():
    plain, noisy = crops(30, Coloured()), crops(30, Coloured(), noise=(0.02, 0.02))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(plain, noisy, strict=True))
    inner = np.concatenate([(b[0] - a[0])[(a[0] > 0.1) & (a[0] < 0.9)] for a, b in zip(plain, noisy, strict=True)])
    assert inner.std() == pytest.approx(0.02, rel=0.05)
    assert abs(inner.mean()) < 1e-3


def test_one_kind_does_not_shift_the_draws_of_another():
    jitter = {"jitter": {"brightness": 0.1}}
    both, alone = crops(10, **jitter, noise=(0.01, 0.05)), crops(10, **jitter)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(both, alone, strict=True))


def test_half_the_scale_shows_twice_as_much():
    for lq, _ in map(numbers, crops(20, scale=(0.5, 0.5), **UPRIGHT)):
        assert 27 <= np.ptp(lq[0]) <= 32  # rows of a 32 pixel window
        assert 27 <= np.ptp(lq[1]) <= 32


def test_a_window_never_leaves_the_image():
    lq, _ = numbers(CropDataset(Numbered(height=20, width=20), 16, 1, 1, Augment(scale=(0.25, 0.25)))[0])
    assert lq.shape == (3, 16, 16)
    assert np.ptp(lq[0]) <= 20


def test_resized_keeps_what_the_picture_shows():
    picture = texture(64, 64)
    assert resized(picture, 64) is picture
    small = resized(picture, 32)
    assert (small.shape, small.dtype) == ((32, 32, 3), np.uint8)
    assert psnr(resized(small, 64), picture) > 30


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"scale": (2, 1)}, "the lower bound 2 is above the upper bound 1"),
        ({"noise": (0.2, 0.1)}, "the lower bound 0.2 is above the upper bound 0.1"),
        ({"noise": (0, 25)}, "less than or equal to 1"),
        ({"jitter": {"brightness": 2}}, "less than or equal to 1"),
        ({"flip": True}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings(wrong, said):
    with pytest.raises(ValidationError, match=said):
        Augment(**wrong)


def test_every_option_is_described_and_frozen():
    assert all(field.description for model in (Augment, Jitter) for field in model.model_fields.values())
    with pytest.raises(ValidationError, match="frozen"):
        Augment().hflip = False
