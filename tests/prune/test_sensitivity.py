import json

import pytest
import torch

from pipeline.contract import Evidence
from pipeline.target import TargetView, load_target
from prune.clock import EstimatorClock, HostClock, Saved, clock_for
from prune.config import PruneConfig, SensitivityConfig
from prune.importance import l1
from prune.sensitivity import Table, fingerprint, measure_table, summary
from tests.quantize.toys import pairs, student
from tests.train.toys import Words

NARROW = {"widths": [24, 32], "depths": [1, 1], "decoder_depths": [0], "se_from": 2}
FIELDS = ("is_host", "frame", "rates", "backends")


def view(name):
    return TargetView(load_target(name), FIELDS)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    network, words = student(**NARROW), Words()
    with torch.no_grad():  # half of the channels of one group do nothing
        network.encoder[0][0].project.conv.weight[:, ::2] = 0
        network.encoder[0][0].expand.conv.weight[::2] *= 1e-3
    clock = EstimatorClock(view("jetson-xavier"), tmp_path_factory.mktemp("clock"))
    config = SensitivityConfig(images=2, side=64, levels=2, share=0.3)
    return network, words, measure_table(network, l1(network), pairs("calibrate"), clock, config, 8, words)


def test_every_group_has_its_price(measured):
    network, words, table = measured
    assert table.prices[0].group == "stem.conv"
    assert [p.width for p in table.prices] == [24, 24, 24, 32]
    assert all([level.removed for level in p.levels] == ([8, 16] if p.width == 24 else [16, 24]) for p in table.prices)
    assert all(level.psnr_risk >= 0 and level.ms_saved > 0 and level.macs_saved > 0 for p in table.prices for level in p.levels)
    assert words.updates[-1][1] == words.updates[-1][2] == 2 * len(table.prices)
    assert (table.images, table.evidence) == (2, "estimated")
    assert table.conditions["frame"] == "1920x1080"


def test_channels_that_do_nothing_cost_nothing(measured):
    table = measured[2]
    by_name = {p.group: p.levels[0] for p in table.prices}
    idle, stream = by_name["encoder.0.0.expand.conv"], by_name["stem.conv"]
    assert idle.psnr_risk < 1e-4 < stream.psnr_risk
    assert abs(idle.psnr_drop) < 1e-3


def test_the_table_survives_its_file(measured, tmp_path):
    table, path = measured[2], tmp_path / "table.json"
    table.write(path, fingerprint("a", 1))
    assert Table.read(path, fingerprint("a", 1)) == table
    assert Table.read(path, fingerprint("a", 2)) is None
    assert Table.read(tmp_path / "none.json", "") is None
    assert json.loads(path.read_text())["prices"][0]["group"] == "stem.conv"


def test_the_summary_names_the_cheapest_and_the_dearest(measured):
    table = measured[2]
    text = summary(table, 1)
    assert text.startswith(
        f"sensitivity of {len(table.prices)} groups, {table.psnr:.2f} dB in {table.ms:.2f} ms estimated for the target; cheapest "
    )
    assert "cheapest encoder.0.0.expand.conv 8 channels 0.000 dB for " in text


def test_the_host_is_timed_where_it_is_the_target_or_asked_for(tmp_path):
    assert isinstance(clock_for(view("host"), PruneConfig(), tmp_path), HostClock)
    assert isinstance(clock_for(view("jetson-xavier"), PruneConfig(on="host"), tmp_path), HostClock)
    assert isinstance(clock_for(view("raspberry-pi-5"), PruneConfig(), tmp_path), EstimatorClock)


def test_a_network_of_half_the_width_saves_time_on_the_host(tmp_path):
    clock = HostClock(64, 0.05, 0.05, (128, 128), tmp_path)
    wide, narrow = student(widths=[48, 64], depths=[1, 1], decoder_depths=[1]), student(widths=[16, 16], depths=[1, 1], decoder_depths=[1])
    saved = clock.saved(wide, {"narrow": narrow})
    assert clock.evidence is Evidence.HOST
    assert 0.3 * saved.base < saved.ms["narrow"] < saved.base
    assert 0.3 < clock.share(wide, narrow) < 1
    assert not list(tmp_path.iterdir())


def noisy(monkeypatch, tmp_path, target):
    """A table for whose clock every timing is noise."""
    monkeypatch.setattr("prune.clock.NOISE", -1.0)
    clock, words, network = HostClock(64, 0.02, 0.02, (720, 1280), tmp_path, target), Words(), student(**NARROW)
    config = SensitivityConfig(images=2, side=64, share=0.3)
    return measure_table(network, l1(network), pairs("train"), clock, config, 8, words), words, network


def test_where_timings_are_noise_the_targets_estimate_stands_in(tmp_path, monkeypatch):
    target = view("host")
    table, words, network = noisy(monkeypatch, tmp_path, target)
    clock = EstimatorClock(target, tmp_path, "fp32")
    assert (table.evidence, table.conditions["model"], table.conditions["precision"]) == ("estimated", "roofline", "fp32")
    assert table.ms == pytest.approx(clock.saved(network, {}).base)
    assert all(level.ms_saved > 0 for p in table.prices for level in p.levels)
    (said,) = [line for line in words.lines if "unstable" in line]
    assert said.startswith("prune: timings on this host were unstable (off by ")
    assert said.endswith("; sensitivity goes by the estimate roofline of onnxruntime fp32")
    assert ", for timings on this host were unstable (off by " in summary(table, 1)


def test_without_rates_the_work_stands_in(tmp_path, monkeypatch):
    table, _, network = noisy(monkeypatch, tmp_path, None)
    assert table.conditions == {"model": "in proportion to multiply-accumulates"}
    assert table.unstable is not None
    for level in (level for p in table.prices for level in p.levels):
        assert level.ms_saved / table.ms == pytest.approx(level.macs_saved / table.macs)


def test_a_network_times_like_itself_unless_the_machine_is_busy(tmp_path):
    saved = HostClock(64, 0.02, 0.02, (128, 128), tmp_path).saved(student(**NARROW), {})
    assert 0 <= saved.noise < 10
    assert saved.stable is (saved.noise <= 0.02)
    assert not Saved(1.0, {}, float("nan")).stable
