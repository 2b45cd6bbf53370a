import numpy as np
import pytest
import torch

from models.fold import fold_batchnorm
from pipeline.errors import StageFailed
from quantize.calibrate import BINS, Histogram, calibration_images, observe, set_scales
from quantize.insert import prepare, quantizers, set_float
from tests.quantize.toys import PATTERNS, SMALL, pairs, photos, quantized, student


def histogram(values):
    x = torch.as_tensor(values, dtype=torch.float32)
    out = Histogram(float(x.abs().max()))
    out.add(x)
    return out


def test_the_percentile_is_numpys_to_the_width_of_a_bin():
    x = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    got, want = histogram(x).percentile(99.99), np.quantile(np.abs(x), 0.9999)
    assert abs(got - want) <= 2 * np.abs(x).max() / BINS


def test_the_best_range_has_less_squared_error_than_its_neighbours_and_than_min_max():
    x = np.random.default_rng(0).laplace(size=100_000).astype(np.float32)

    def error(top):
        return np.mean((np.clip(np.rint(x / (top / 127)), -127, 127) * (top / 127) - x) ** 2)

    best = histogram(x).best_range()
    assert error(best) < error(np.abs(x).max())
    assert error(best) <= min(error(best * 0.9), error(best * 1.1))


def test_a_tensor_of_zeros_has_no_range_and_still_a_scale():
    assert histogram(np.zeros(10)).percentile(99.99) == 0
    network = prepare(fold_batchnorm(student()))
    with torch.no_grad():
        network.stem.conv.weight.zero_()
        network.stem.conv.bias.zero_()
    set_scales(network, observe(network, photos(1)), "mse")
    assert 0 < quantizers(network)["stem.act"].scale.item() < 1e-6


def test_every_scale_covers_the_values_that_occur():
    images = photos()
    folded, network = quantized(student(), images)
    q = quantizers(network)["stem.act"]
    with torch.no_grad():
        seen = torch.cat([folded.stem(folded.unshuffle(x)).flatten() for x in images]).abs()
    clipped = (seen > 127.5 * q.scale).float().mean()
    assert clipped <= 2e-4
    assert 127 * q.scale.item() <= seen.max() * 1.001


def test_the_two_methods_differ_and_both_leave_every_tensor_rounded():
    network = prepare(fold_batchnorm(student()))
    histograms = observe(network, photos())
    scales = {}
    for method in ("percentile", "mse"):
        set_scales(network, histograms, method)
        scales[method] = [q.scale.item() for q in quantizers(network).values()]
        assert all(q.enabled for q in quantizers(network).values())
    assert scales["percentile"] != scales["mse"]


def corrections(network):
    return [q.name for q in quantizers(network).values() if q.corrects_picture]


@pytest.mark.parametrize("config", PATTERNS.values(), ids=PATTERNS)
def test_what_corrects_the_picture_is_the_head_alone(config):
    assert corrections(prepare(fold_batchnorm(student(**config)))) == ["head"]


def test_without_a_global_sum_nothing_corrects_the_picture():
    chain = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 3, 1))
    chain.size_multiple = 1
    assert corrections(prepare(chain)) == []


@pytest.mark.parametrize("method", ["percentile", "mse", "median", "minmax"])
def test_a_correction_in_whole_grey_levels_changes_no_pixel(method):
    images = photos()
    folded, ready = quantized(student(), images, method)
    head = quantizers(ready)["head"]
    assert head.scale.item() == np.float32(1 / 255)
    assert not head.log_step.requires_grad
    set_float(ready, [n for n, q in quantizers(ready).items() if q.leader is q and n != "head"])
    with torch.no_grad():
        for x in images:
            as_pixels = [(net(x).clamp(0, 1) * 255).round() for net in (folded, ready)]
            assert torch.equal(*as_pixels)
            head.set_scale(1.5 / 255)
            assert not torch.equal(as_pixels[0], (ready(x).clamp(0, 1) * 255).round())
            head.set_scale(1 / 255)


def test_a_correction_that_127_grey_levels_cannot_say_has_steps_of_its_own():
    network = student()
    with torch.no_grad():
        network.head.weight *= 1e3
    _, ready = quantized(network)
    head = quantizers(ready)["head"]
    assert head.scale.item() > 1 / 255
    assert head.log_step.requires_grad


def test_progress_counts_both_passes():
    seen = []
    observe(prepare(fold_batchnorm(student())), photos(2), seen.append)
    assert seen == [1, 2, 3, 4]


def test_images_are_cropped_to_what_the_network_takes():
    source = pairs("calibrate", 2, 90)
    images = list(calibration_images([source[i] for i in range(2)], 8))
    assert [tuple(x.shape) for x in images] == [(1, 3, 88, 88)] * 2
    assert images[0].dtype == torch.float32
    assert images[0].max() <= 1


def test_an_empty_calibration_set_is_refused():
    with pytest.raises(StageFailed, match="the calibration set is empty"):
        observe(prepare(fold_batchnorm(student())), [])


def test_a_network_that_is_not_finite_is_refused_by_tensor():
    network = prepare(fold_batchnorm(student()))
    with torch.no_grad():
        network.stem.conv.bias.fill_(float("nan"))
    with pytest.raises(StageFailed, match=r"tensor 'stem.act' is not finite on the calibration set"):
        observe(network, photos(1))


def test_one_wild_picture_spoils_all_ranges_but_the_median():
    ready = prepare(fold_batchnorm(student(**SMALL)))
    calm = [x * 0.5 for x in photos()]
    usual = observe(ready, calm)
    wild = observe(ready, [*calm, photos(1)[0] * 100])
    name = "encoder.0.0.expand.act"
    assert wild[name].top("percentile") > 20 * usual[name].top("percentile")
    assert wild[name].top("median") < 2 * usual[name].top("median")
    assert len(wild[name].tops) == 4
    assert usual[name].top("median") <= usual[name].largest
