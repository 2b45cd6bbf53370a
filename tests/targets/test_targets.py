from __future__ import annotations

import re

import pytest

from compile.tensorrt.flags import trtexec_of
from compile.tvm.cpu import cpu_of
from eval.session import load_backend
from pipeline.target import TARGETS_DIR, Target, known_targets, load_target

TARGETS = known_targets()
MARKS = ("(checked)", "(memory)", "(assumed)", "nominal")
PROMISED = {"host", "jetson-nano", "jetson-xavier", "jetson-xavier-nx", "jetson-orin-nano", "jetson-orin", "jetson-orin-jp5"}
PROMISED |= {"jetson-orin-jp7", "raspberry-pi-4", "raspberry-pi-5", "android-arm64", "android-arm64-v8", "android-arm64-i8mm"}
BOARDS = [name for name in TARGETS if name != "host"]
CONSTANTS = r"(macs|fp32|fp16|bf16|int8|bandwidth_gbs|\w+_efficiency|launch_us|memory_gb|cores|opset|python|glibc|version|mcpu|arch|dla)"


def llvm(target: Target):
    import tvm

    return tvm.target.Target({"kind": "llvm", "mtriple": target.cpu.triple, "mcpu": target.cpu.mcpu, "mattr": list(target.cpu.features)})


def precisions(name: str, backend: str) -> tuple[str, ...]:
    return next((b.precisions for b in load_target(name).backends if b.use == backend), ())


def test_the_promised_targets_are_there():
    assert set(TARGETS) >= PROMISED


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_complete(name: str):
    target = load_target(name)
    assert target.name == name
    assert target.backends
    assert target.is_host == (name == "host")
    for backend in target.backends:
        assert load_backend(backend.use).name == backend.use
        assert backend.runs_on in target.rates
        assert set(backend.precisions) <= set(target.rates[backend.runs_on].macs), backend.use
        if backend.use == "tensorrt":
            assert target.gpu is not None
            assert trtexec_of(backend.version).flags
    assert ("gpu" in target.rates) == (target.gpu is not None)


@pytest.mark.parametrize("name", TARGETS)
def test_rates_are_in_order(name: str):
    for rates in load_target(name).rates.values():
        known = [rates.macs[p] for p in ("fp32", "fp16", "int8") if p in rates.macs]
        assert known == sorted(known)
        assert rates.depthwise_efficiency <= rates.compute_efficiency


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_says_how_it_is_known_and_what_it_has(name: str):
    target = load_target(name)
    known = target.recognise
    assert known.model or known.android
    assert bool(known.l4t) == bool(known.cuda) == bool(target.jetpack) == name.startswith("jetson")
    assert target.memory_gb > 0
    assert target.cpu.name
    if target.jetpack:
        assert target.power_modes
        assert len({m.id for m in target.power_modes}) == len(target.power_modes)
        assert target.gpu.arch == "sm_" + known.cuda.replace("\\.", "")
        assert {"cuda", "numpy"} <= set(target.runtimes)


MODELS = {
    "jetson-xavier-nx": ("NVIDIA Jetson Xavier NX Developer Kit", "R35.4.1"),
    "jetson-orin-nano": ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "R36.4.7"),
    "raspberry-pi-4": ("Raspberry Pi 4 Model B Rev 1.4", ""),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_boards_say_of_themselves_fits_their_target_alone(name: str):
    model, l4t = MODELS[name]
    fitting = []
    for other in BOARDS:
        known = load_target(other).recognise
        if known.model and re.search(known.model, model) and re.search(known.l4t, l4t):
            fitting.append(other)
    assert fitting == [name]


@pytest.mark.parametrize("name", BOARDS)
def test_llvm_knows_the_cpu_and_its_instructions(name: str):
    from tvm.target.codegen import llvm_cpu_has_features, llvm_get_cpu_archlist

    target = load_target(name)
    machine = llvm(target)
    assert target.cpu.mcpu in llvm_get_cpu_archlist(machine)
    for feature in target.cpu.features:
        assert feature.startswith("+")
        assert llvm_cpu_has_features(feature[1:], machine), feature
    listed = {f[1:] for f in target.cpu.features}
    for feature in ("dotprod", "i8mm", "sve", "sve2"):
        assert (feature in listed) == bool(llvm_cpu_has_features(feature, machine)), feature


@pytest.mark.parametrize("name", BOARDS)
def test_int8_rates_follow_the_dot_product_and_fp16_the_arithmetic(name: str):
    target = load_target(name)
    cpu, macs = cpu_of(llvm(target)), target.rates["cpu"].macs
    assert macs["int8"] / macs["fp32"] == pytest.approx(2 if cpu.form == "smull" else 8 if "+i8mm" in target.cpu.features else 4, rel=0.02)
    on_cpu = {p for b in target.backends if b.runs_on == "cpu" for p in b.precisions}
    if not cpu.half:
        assert "fp16" not in on_cpu
        assert macs.get("fp16", macs["fp32"]) == macs["fp32"]


def test_what_boards_cannot_do_is_not_asked_of_them():
    assert "int8" not in precisions("jetson-nano", "tensorrt")
    assert "int8" not in load_target("jetson-nano").rates["gpu"].macs
    for name in ("raspberry-pi-4", "android-arm64-v8"):
        assert not {"+dotprod", "+fullfp16"} & set(load_target(name).cpu.features)
    assert load_target("jetson-orin-nano").gpu.dla == 0
    assert load_target("jetson-xavier").gpu.dla == 2


VERSIONS = {
    "jetson-nano": "8.2.1",
    "jetson-xavier": "8.5.2",
    "jetson-xavier-nx": "8.5.2",
    "jetson-orin-jp5": "8.5.2",
    "jetson-orin": "10.3",
}


@pytest.mark.parametrize("name", VERSIONS)
def test_tensorrt_is_the_one_of_the_jetpack(name: str):
    target = load_target(name)
    found = next(b for b in target.backends if b.use == "tensorrt")
    assert found.version == VERSIONS[name]
    assert (found.runs_on, target.opset) == ("gpu", 13 if found.version == "8.2.1" else 17)
    assert target.python == {"8.2.1": "3.6", "8.5.2": "3.8", "10.3": "3.10"}[found.version]


@pytest.mark.parametrize("name", TARGETS)
def test_every_constant_says_where_it_comes_from(name: str):
    lines = (TARGETS_DIR / f"{name}.yaml").read_text().splitlines()
    start, end = (lines.index(key) if key in lines else 0 for key in ("rates:", "backends:"))
    for number, line in enumerate(lines):
        inside = start < number < (end or len(lines)) and re.match(r"\s+\w+: [0-9.]+", line)
        constant = name != "host" and re.match(rf"\s*{CONSTANTS}: \S", line)
        if inside or constant:
            said = line + (lines[number - 1] if lines[number - 1].lstrip().startswith("#") else "")
            assert any(mark in said for mark in MARKS) or "the whole pipeline keeps to" in said, line


def test_jetson_xavier_is_the_board_under_jetpack_5_1():
    t = load_target("jetson-xavier")
    assert (t.python, t.glibc, t.opset, t.gpu.arch, t.cpu.mcpu) == ("3.8", "2.31", 17, "sm_72", "carmel")
    assert "dotprod" not in "".join(t.cpu.features)
    assert t.backends[0].version == "8.5.2"
    assert (t.frame.width, t.frame.height) == (1920, 1080)
    assert t.latency_budget_ms == pytest.approx(1000 / 45, abs=0.05)
    gpu = t.rates["gpu"]
    assert (gpu.macs["int8"], gpu.macs["fp16"], gpu.bandwidth_gbs) == (11.0, 5.5, 137)
