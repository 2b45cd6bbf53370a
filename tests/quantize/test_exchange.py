"""What each tensor costs and is worth, and the network that is made of it."""

from functools import partial

import numpy as np
import pytest
import torch

from pipeline.contract import Evidence
from pipeline.target import TargetView, load_target
from quantize.candidates import compete
from quantize.contest import Contest
from quantize.costs import estimated, float_precision, measured
from quantize.emit import emit, export_marked, flavoured
from quantize.exchange import Row, Table, exchange_table, sensitivities
from quantize.insert import quantizers, set_float
from quantize.lint import QdqGraph
from quantize.retreat import mixed, solve, within_bound
from quantize.scales import collect
from quantize.stage import STAGE
from tests.quantize.test_stage import fragile
from tests.quantize.toys import SMALL, Echo, checkpoint_of, context, quantized, student

CONFIG = {"contenders": ["ptq"], "equalise": False, "correct_bias": False, "seconds": 0.02}


def view(name):
    return TargetView(load_target(name), STAGE.reads_target)


@pytest.fixture(scope="module")
def network():
    return quantized(student(**SMALL))[1]


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    path = tmp_path_factory.mktemp("exchange")
    broken = fragile()
    inputs = {"model": checkpoint_of(broken, path / "model.safetensors")}
    contest = Contest(context(STAGE, path / "work", CONFIG, inputs, make=partial(Echo, broken)))
    chosen = contest.choose(compete(contest))
    emit(chosen.network, collect(chosen.network), path, 17)
    return contest, chosen, path / "qdq_s8.onnx"


def leaders(network):
    return [q.name for q in quantizers(network).values() if q.leader is q]


def test_estimated_costs_are_those_of_the_network_with_that_tensor_in_float(network, tmp_path):
    target = view("jetson-xavier")
    emit(network, collect(network), tmp_path, 17)
    costs = estimated(network, tmp_path / "qdq_s8.onnx", target)
    assert list(costs.ms) == leaders(network)
    assert costs.evidence is Evidence.ESTIMATED
    for name in ("stem.act", "decoder.0.up.conv.conv"):
        set_float(network, [name])
        emit(network, collect(network), tmp_path, 17)
        other = estimated(network, tmp_path / "qdq_s8.onnx", target)
        set_float(network, ())
        assert other.whole_ms - costs.whole_ms == pytest.approx(costs.ms[name], rel=1e-6)


@pytest.mark.parametrize(("target", "precision"), [("jetson-xavier", "fp16"), ("raspberry-pi-5", "fp32"), ("host", "fp32")])
def test_float_is_what_the_targets_int8_runtime_has_beside_int8(target, precision):
    assert float_precision(view(target)) == precision


def test_measured_costs_are_of_this_host(network, tmp_path):
    costs = measured(network, 17, 64, tmp_path)
    assert list(costs.ms) == leaders(network)
    assert costs.evidence is Evidence.HOST
    assert costs.conditions["frame"] == "64x64"
    assert all(np.isfinite(v) and v > -costs.whole_ms for v in costs.ms.values())


def test_a_file_without_a_tensor_is_the_one_that_the_network_without_it_gives(network, tmp_path):
    import onnx

    marked, parameters = export_marked(network, 17), collect(network)
    onnx.save(flavoured(marked, parameters.without("stem.act"), "s8"), tmp_path / "edited.onnx")
    set_float(network, ["stem.act"])
    onnx.save(flavoured(export_marked(network, 17), collect(network), "s8"), tmp_path / "exported.onnx")
    set_float(network, ())
    counts = [QdqGraph(tmp_path / f"{n}.onnx").quantized_operators() for n in ("edited", "exported")]
    assert counts[0] == counts[1]
    assert counts[0]["Conv"] < QdqGraph(write(marked, parameters, tmp_path)).quantized_operators()["Conv"]


def write(marked, parameters, folder):
    import onnx

    onnx.save(flavoured(marked, parameters, "s8"), folder / "whole.onnx")
    return folder / "whole.onnx"


def test_the_tensor_that_hurts_regains_most(judged):
    contest, chosen, path = judged
    gains, lost = sensitivities(contest, chosen)
    assert max(gains, key=lambda name: gains[name].mean()) == "encoder.0.0.expand.act"
    assert gains["encoder.0.0.expand.act"].mean() > 0.5 * lost.mean() > 0
    assert all(q.enabled for q in quantizers(chosen.network).values())
    assert np.allclose(gains["head"], 0, atol=1e-3)  # in whole grey levels: pixels are what is judged


def test_the_table_prices_every_tensor(judged):
    contest, chosen, path = judged
    table = exchange_table(contest, chosen, path, by_measurement=False)
    assert {r.tensor for r in table.rows} == set(leaders(chosen.network))
    rates = [r.rate for r in table.rows]
    assert rates == sorted(rates, reverse=True)


def false_table(contest, chosen, path):
    """A table that promises too much of two tensors, and knows next to nothing of the one that hurts."""
    real = exchange_table(contest, chosen, path, by_measurement=False)
    promised = {"stem.act": 1.0, "head": 1.0, "encoder.0.0.expand.act": 1e-3}
    rows = tuple(Row(r.tensor, promised.get(r.tensor, 0.0), promised.get(r.tensor, 0.0), 1.0) for r in real.rows)
    return Table(real.of, rows, real.lost, real.lost_worst, real.costs)


def test_the_solution_is_measured_and_repaired_where_gains_do_not_add_up(judged):
    contest, chosen, path = judged
    contest.config = contest.config.model_copy(update={"max_drop": 0.02})
    lies = false_table(contest, chosen, path)
    alone = solve(contest, chosen, lies)
    found = mixed(contest, chosen, lies)
    assert contest.fits(found)
    assert set(alone) <= set(found.float_tensors)
    assert len(alone) == 1
    assert "encoder.0.0.expand.act" in set(found.float_tensors) - set(alone)


def test_float_is_the_last_rung(judged):
    contest, chosen, path = judged
    contest.config = contest.config.model_copy(update={"max_drop": 0.0, "max_drop_worst": 0.0})
    table = exchange_table(contest, chosen, path, by_measurement=False)
    assert within_bound(contest, chosen, table)[-1] is contest.float
    contest.config = contest.config.model_copy(update={"max_drop": 50.0, "max_drop_worst": 50.0})
    assert within_bound(contest, chosen, table) == [chosen]


def test_one_crop_is_enough_of_a_small_image(judged):
    contest, chosen, path = judged
    with torch.no_grad():
        gains, lost = sensitivities(contest, chosen)
    assert {len(g) for g in gains.values()} == {len(lost)} == {4}  # three images, and the worst one again
