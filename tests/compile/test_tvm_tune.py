"""Tile sizes: shipped ones, and measuring new ones."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from compile.onnxruntime.backend import OnnxSession
from compile.parity import output_psnr
from compile.tvm import BACKEND, tune
from compile.tvm.cpu import Cpu
from compile.tvm.kernels.conv import Conv, Tile
from compile.tvm.kernels.finish import Finish
from compile.tvm.kernels.tensors import Number, Place
from compile.tvm.tiles import SHIPPED, Tiles
from eval.quality import to_batch
from eval.session import BuildRequest, open_session
from pipeline.errors import UsageError
from pipeline.target import Target, load_target
from quantize.artifact import ModelFolder
from tests.compile.networks import Photos, write_model_folder

TINY = {"widths": (8, 8), "depths": (0, 1), "decoder_depths": (0,), "se_from": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("tiny") / "folder", TINY)


def test_the_shipped_sizes_can_be_used():
    content = json.loads(SHIPPED.read_text())
    assert content
    assert set(content.pop("evidence")) == set(content)
    for core, shapes in content.items():
        cpu = Cpu(core, "vnni512", 16, 32, "uint8")
        assert Tiles.shipped(cpu).known == {shape: Tile(*sizes) for shape, sizes in shapes.items()}
        assert all(1 <= pixels <= 16 and 1 <= vectors <= 6 for pixels, vectors in shapes.values())


def test_tuning_keeps_records_and_goes_on_from_them(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tune, "candidates", lambda cpu, spec: [Tile(2, 1), Tile(4, 1)])
    best = tune.tune(ModelFolder(tiny), "int8", 32, tmp_path / "records")
    records = sorted((tmp_path / "records").iterdir())
    assert len(records) == 2 * len(best) > 4
    fast = {shape: min((r for r in map(read, records) if r["shape"] == shape), key=lambda r: r["seconds"])["tile"] for shape in best}
    assert {shape: [t.pixels, t.vectors] for shape, t in best.items()} == fast
    records[0].unlink()
    measured: list[str] = []
    monkeypatch.setattr(tune, "time_step", lambda step, *_: measured.append(step.name) or 1.0)
    tune.tune(ModelFolder(tiny), "int8", 32, tmp_path / "records")
    assert len(measured) == 1


def read(path: Path) -> dict[str, object]:
    return json.loads(path.read_text())


def test_tuning_within_a_build_takes_what_it_measured_and_says_so(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    times = iter(range(100, 0, -1))
    monkeypatch.setattr(tune, "time_step", lambda *_: float(next(times)))  # each tile faster than the one before
    options = {"tune": {"trials": 2, "records": tmp_path / "records"}}
    request = BuildRequest(tiny, "int8", 32, 32, load_target("host"), tmp_path, for_host=True, options=options)
    built = BACKEND.build(request)
    records = [read(p) for p in (tmp_path / "records").glob("*.json")]
    assert len(records) == 2
    fastest = min(records, key=lambda r: r["seconds"])
    assert built.facts["tiles"][fastest["shape"]] == fastest["tile"]
    assert BACKEND.differences(built, ModelFolder(tiny)) == []  # read back with the same tiles


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": {"trials": 2}}, "does not run here to be timed\nhint: add rpc: host:port/key"),
        ({"tune": {"rpc": "board"}}, "must be host:port/key"),
        ({"tuning": {}}, "tuning"),
    ],
)
def test_options_that_cannot_be_met_are_refused(options: dict[str, object], message: str, tiny: Path, tmp_path: Path):
    request = BuildRequest(tiny, "int8", 32, 32, load_target("raspberry-pi-5"), tmp_path, options=options)
    with pytest.raises(UsageError, match=message):
        BACKEND.build(request)


def test_merging_keeps_what_is_there(tmp_path: Path):
    path = tmp_path / "tiles.json"
    tune.merge(path, "a", {"x": Tile(1, 2)})
    tune.merge(path, "a", {"y": Tile(3, 4)})
    tune.merge(path, "b", {"x": Tile(5, 1)})
    assert json.loads(path.read_text()) == {"a": {"x": [1, 2], "y": [3, 4]}, "b": {"x": [5, 1]}}


def test_candidates_fit_the_registers():
    cpu = Cpu("core", "avx2", 8, 16, "uint8")
    place = Place(16, 16, 32, Number("uint8", 0.1, 0), 1)
    found = tune.candidates(cpu, Conv(place, 32, 3, 1, 1, Finish("", place.number, place)))
    assert len(found) > 3
    assert all(t.pixels * t.vectors + t.vectors < 16 for t in found)


def test_every_step_is_timed(tiny: Path):
    lines = list(tune.measure_steps(ModelFolder(tiny), "fp32", 32))
    assert any(line.startswith("Conv") and " us" in line for line in lines)
    assert len(lines) > 5


def test_an_operator_without_a_kernel_is_computed_in_float_and_named(tiny: Path, tmp_path: Path):
    import shutil

    host: Target = load_target("host")
    folder = Path(shutil.copytree(tiny, tmp_path / "folder"))
    for name in ("float.onnx", "qdq_u8.onnx", "qdq_s8.onnx"):
        model = onnx.load(folder / name)
        relu = next(n for n in model.graph.node if n.op_type == "Relu")
        relu.op_type = "LeakyRelu"
        onnx.save(model, folder / name)
    lq = to_batch(Photos(1).pairs[0].lq[:32, :48])
    for precision, least in (("fp32", 90), ("int8", 45)):
        built = BACKEND.build(BuildRequest(folder, precision, 32, 48, host, tmp_path, for_host=True))
        assert built.facts["islands"] == [relu.name]
        source = "float" if precision == "fp32" else f"qdq_{built.facts['source']}"
        with open_session(built.path, built.facts) as session:
            assert output_psnr(session.run(lq), OnnxSession(folder / f"{source}.onnx", optimise=False).run(lq)) > least
