"""Real int8: every step against ONNX Runtime's result of the same Q/DQ file, whole networks, and what is in the library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compile.onnxruntime.backend import OnnxSession
from compile.parity import output_psnr
from compile.tvm import BACKEND
from compile.tvm.assemble import assemble
from compile.tvm.cpu import cpu_of
from compile.tvm.fuse import borders, fuse_sums
from compile.tvm.graph import Graph
from compile.tvm.kernels.tensors import SLACK, Number
from compile.tvm.network import read_network
from compile.tvm.steps import ConvStep, FloatStep, Network, ResizeStep, Step, Tensor
from compile.tvm.tiles import Tiles
from eval.quality import to_batch
from eval.session import BuildRequest, Built, open_session
from models.export import fix_size
from pipeline.target import Target, load_target
from quantize.artifact import ModelFolder
from tests.compile.networks import GATED, SMALL, Photos, write_model_folder

SIZE = (48, 80)
OTHERS = {
    **{"widths": (16, 24, 40), "depths": (1, 1, 1), "high_scales": 1, "se_from": 2, "kernels": 5, "activation": "relu6"},
    **{"skip": "concat", "upsample": "nearest", "unshuffle": 1},
}
DECONV = {"widths": (16, 24), "depths": (1, 1), "decoder_depths": (1,), "se_from": 3, "upsample": "deconv", "unshuffle": 4}
NETWORKS: dict[str, Mapping[str, object]] = {"plain": SMALL, "gated": GATED, "others": OTHERS, "deconv": DECONV, "unsigned": SMALL}


@pytest.fixture(scope="session")
def host() -> Target:
    return load_target("host")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("int8")
    return {name: write_model_folder(root / name, config, unsigned=name == "unsigned") for name, config in NETWORKS.items()}


def photo(height: int, width: int) -> np.ndarray:
    return to_batch(Photos(1).pairs[0].lq[20 : 20 + height, 30 : 30 + width])


def host_target() -> Any:
    import tvm

    from compile.tvm.host import host_dict

    return tvm.target.Target(host_dict())


def fixed(folder: Path, flavour: str, path: Path) -> onnx.ModelProto:
    fix_size(folder / f"qdq_{flavour}.onnx", path, *SIZE)
    return onnx.load(path)


def every_value(model: onnx.ModelProto, lq: np.ndarray) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes for every value of a model, node by node."""
    import onnxruntime

    known = onnx.shape_inference.infer_shapes(model).graph.value_info
    full = onnx.ModelProto()
    full.CopyFrom(model)
    full.graph.output.extend(known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(full.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {"lq": lq, **dict(zip([o.name for o in full.graph.output], session.run(None, {"lq": lq}), strict=True))}


def pack(value: np.ndarray, tensor: Tensor, pad: int) -> np.ndarray:
    place = tensor.place(pad)
    full = np.full((place.height + 2 * pad, place.width + 2 * pad, place.channels), place.number.zero, place.number.dtype)
    full[pad : pad + place.height, pad : pad + place.width, : tensor.channels] = value[0].transpose(1, 2, 0)
    return np.append(full.reshape(-1), np.zeros(SLACK, full.dtype))


def unpack(line: np.ndarray, tensor: Tensor) -> np.ndarray:
    place = tensor.place()
    image = line[:-SLACK].reshape(place.height, place.width, place.channels)
    return image[None, :, :, : tensor.channels].transpose(0, 3, 1, 2)


def run_step(step: Step, values: Mapping[str, np.ndarray]) -> np.ndarray:
    import tvm
    from tvm import relax

    target = host_target()
    cpu = cpu_of(target)
    alone = Network((step,), step.inputs, step.out)
    module = assemble(alone, cpu, Tiles(cpu), 17).module
    main = relax.VirtualMachine(tvm.compile(module, target=target), tvm.cpu())["main"]
    pads = borders(alone)
    inputs = [pack(values[v.name], v, pads.get(v.name, 0)) if isinstance(v, Tensor) else values[v.name] for v in step.inputs]
    out = main(*[tvm.runtime.tensor(np.ascontiguousarray(i)) for i in inputs]).numpy()
    return unpack(out, step.out) if isinstance(step.out, Tensor) else out


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_step_is_within_one_of_onnx_runtime(name: str, folders: dict[str, Path], tmp_path: Path):
    cpu = cpu_of(host_target())
    model = fixed(folders[name], cpu.flavour, tmp_path / "fixed.onnx")
    values = every_value(model, photo(*SIZE))
    network = fuse_sums(read_network(Graph(model), cpu.activation, Number()))
    seen = 0
    for step in network.steps:
        if isinstance(step, FloatStep) or any(v.name not in values for v in (*step.inputs, step.out)):
            continue  # TVM's own operators; and values that exist in one layout alone
        got, want = run_step(step, values), values[step.out.name]
        if isinstance(step.out, Tensor) and not step.out.number.is_float:
            difference = np.abs(got.astype(np.int64) - want)
            assert difference.max() <= 1, step.name
            assert (difference > 0).mean() < 0.02, step.name
        else:
            assert np.abs(got - want).max() < 1e-4, step.name
        seen += 1
    assert seen > 10


@pytest.mark.parametrize("name", ["plain", *(pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS if n != "plain")])
def test_whole_networks_are_the_same_and_all_in_kernels(name: str, folders: dict[str, Path], host: Target, tmp_path: Path):
    folder = folders[name]
    built = BACKEND.build(BuildRequest(folder, "int8", *SIZE, host, tmp_path, for_host=True))
    assert (built.facts["islands"], built.facts["unscheduled"]) == ([], [])
    lq = photo(*SIZE)
    want = OnnxSession(folder / f"qdq_{built.facts['source']}.onnx", optimise=False).run(lq)
    plain = OnnxSession(folder / "float.onnx").run(lq)
    for threads in (1, 2):
        with open_session(built.path, built.facts, threads) as session:
            got = session.run(lq)
    assert output_psnr(got, want) > 48
    assert output_psnr(got, want) > output_psnr(plain, want) - 3
    assert BACKEND.differences(built, ModelFolder(folder)) == []


def test_a_wrong_scale_or_weight_is_found(folders: dict[str, Path], host: Target, tmp_path: Path):
    built = BACKEND.build(BuildRequest(folders["plain"], "int8", *SIZE, host, tmp_path, for_host=True))
    other = ModelFolder(write_model_folder(tmp_path / "other", SMALL, seed=1))
    found = BACKEND.differences(built, other)
    assert {f.split()[0] for f in found} == {"activation", "weight"}
    cut = tmp_path / "cut.so"
    data = built.path.read_bytes()
    folder = ModelFolder(folders["plain"])
    cut.write_bytes(data.replace(_stem_weights(folder, tmp_path), bytes(64)))
    assert BACKEND.differences(Built(cut, built.facts), folder) == ["weight stem.conv.weight"]


def _stem_weights(folder: ModelFolder, tmp_path: Path) -> bytes:
    cpu = cpu_of(host_target())
    model = fixed(folder.path, cpu.flavour, tmp_path / "fixed.onnx")
    module = assemble(read_network(Graph(model), cpu.activation, Number()), cpu, Tiles.shipped(cpu), 17)
    return module.constants[0].constants[0].tobytes()[:64]


def test_a_file_with_tensors_left_in_float(folders: dict[str, Path], host: Target, tmp_path: Path):
    folder = leave_float(folders["gated"], tmp_path / "mixed")
    built = BACKEND.build(BuildRequest(folder, "int8", *SIZE, host, tmp_path, for_host=True))
    lq = photo(*SIZE)
    with open_session(built.path, built.facts) as session:
        got = session.run(lq)
    want = OnnxSession(folder / f"qdq_{built.facts['source']}.onnx", optimise=False).run(lq)
    assert output_psnr(got, want) > 50
    assert BACKEND.differences(built, ModelFolder(folder)) == []


def leave_float(source: Path, out: Path) -> Path:
    """A copy of a model folder with every third activation tensor in float."""
    import shutil

    import torch

    from models.checkpoint import load
    from quantize.artifact import write_scales
    from quantize.calibrate import observe, set_scales
    from quantize.emit import emit
    from quantize.insert import prepare, quantizers, set_float
    from quantize.scales import collect

    shutil.copytree(source, out)
    ready = prepare(load(out / "checkpoint.safetensors").module)
    set_scales(ready, observe(ready, [torch.from_numpy(to_batch(p.lq)) for p in Photos()]), "mse")
    set_float(ready, list(quantizers(ready))[1::3])
    parameters = collect(ready)
    emit(ready, parameters, out, 17)
    write_scales(out, parameters.to_json())
    return out


def test_sums_melt_into_the_step_before(folders: dict[str, Path], tmp_path: Path):
    cpu = cpu_of(host_target())
    network = read_network(Graph(fixed(folders["plain"], cpu.flavour, tmp_path / "fixed.onnx")), cpu.activation, Number())
    fused = fuse_sums(network)
    assert [type(s).__name__ for s in network.steps].count("AddStep") > 2
    assert "AddStep" not in [type(s).__name__ for s in fused.steps]
    assert any(isinstance(s, ConvStep) and len(s.inputs) == 2 for s in fused.steps)
    assert any(isinstance(s, ResizeStep) and len(s.inputs) == 2 for s in fused.steps)
    shared = replace(network, steps=(*network.steps, replace(network.steps[-1], inputs=network.steps[3].inputs)))
    assert len(fuse_sums(shared).steps) > len(fused.steps)  # what something else reads is still computed
