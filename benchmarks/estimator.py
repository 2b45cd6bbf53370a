"""How well the estimator predicts this machine, before and after a calibration by microbenchmarks; and NVIDIA's figures for a board.

    python benchmarks/estimator.py [--side 256] [--count 12] [--seed 1] [--wall] [--backend onnxruntime] [--workspace DIR] [--published]

Two groups of ten students each are timed in fp32 and int8, in turn, with one thread: ten named ones, with which details of the model were
chosen, and ten drawn by --seed, which the model has never seen. The same is done with the microbenchmarks, which know nothing of either.
Printed for each group: predictions beside times, rank correlations, median error, error by kind of operator (ONNX Runtime's own profile).
Times are the thread's own CPU time, so that whoever else uses the core does not count; --wall takes wall-clock time. --workspace keeps
the calibration, so that the host's estimates use it. --published prints NVIDIA's figures beside the estimate and measures nothing. Exit
code 1 when a bound is missed by the students that were drawn.
"""

# ruff: noqa: E402 - the search path is set before the packages are imported
from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # files beside this one would hide packages of their names

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr

from compile.onnxruntime.profile import node_times
from eval.cost import onnx_layers
from eval.session import BuildRequest, load_backend, open_session
from models.arch import build
from models.fold import fold_batchnorm
from pipeline.calibration import Recorded, fingerprint, record
from pipeline.target import Rates, Target, load_target
from quantize.artifact import ModelFolder
from quantize.calibrate import observe, set_scales
from quantize.folder import write_folder
from quantize.insert import prepare
from targets.calibration import learned, time_in_turn
from targets.estimator import Estimate, estimate
from targets.layers import LayerCost
from targets.microbench import default_set, write_set
from targets.predictions import kind_errors
from targets.published import PUBLISHED, frames_per_second

PRECISIONS = ("fp32", "int8")
LEAST_RANK, LARGEST_ERROR = 0.9, 0.25
STUDENTS: dict[str, dict[str, Any]] = {
    "default": {},
    "narrow": {"widths": [16, 32, 48]},
    "wide": {"widths": [48, 96, 128]},
    "deep": {"depths": [2, 3, 4], "decoder_depths": 2},
    "depthwise": {"high_scales": 0},
    "dense": {"high_scales": 3, "se_from": 9},
    "mobile": {"high_scales": 0, "activation": "hardswish", "se_from": 0, "expand": 3.0, "widths": [16, 24, 40]},
    "relu6": {"activation": "relu6", "skip": "concat", "widths": [24, 48, 64]},
    "coarse": {"unshuffle": 4, "widths": [48, 64, 96], "upsample": "nearest"},
    "four": {"widths": [16, 32, 48, 64], "depths": [1, 1, 2, 2], "kernels": [3, 3, 5, 5], "upsample": "deconv"},
}


def drawn(seed: int, count: int = 10) -> dict[str, dict[str, Any]]:
    """Configurations of students from all that a student may be, for a generator's seed."""
    rng = np.random.default_rng(seed)
    found = {}
    for n in range(count):
        scales = int(rng.integers(2, 5))
        width = 8 * int(rng.integers(2, 7))
        widths = [width]
        for _ in range(scales - 1):
            widths.append(min(160, 8 * round(widths[-1] * rng.uniform(1.1, 2.0) / 8)))
        found[f"drawn {n}"] = {
            "widths": widths,
            "depths": [int(v) for v in rng.integers(1, 4, scales)],
            "decoder_depths": int(rng.integers(1, 3)),
            "kernels": int(rng.choice([3, 3, 5])),
            "high_scales": int(rng.integers(0, scales + 1)),
            "se_from": int(rng.integers(0, scales + 1)),
            "activation": str(rng.choice(["relu", "relu6", "hardswish"])),
            "unshuffle": int(rng.choice([2, 2, 4])),
            "upsample": str(rng.choice(["bilinear", "nearest", "deconv"])),
            "skip": str(rng.choice(["add", "concat"])),
        }
    return found


@dataclass(frozen=True, slots=True)
class Timed:
    """A network that was timed: what it consists of, the milliseconds it took, the file that the runtime opened."""

    layers: list[LayerCost]
    ms: float
    path: Path


def student(config: dict[str, Any], folder: Path) -> ModelFolder:
    """A model folder with random weights, and scales from noise."""
    torch.manual_seed(0)
    network = fold_batchnorm(build("student", config).eval())
    prepared = prepare(network)
    set_scales(prepared, observe(prepared, [torch.rand(1, 3, 64, 64)]), "percentile")
    return write_folder(folder, network, "student", 17, prepared)


def timed(folders: dict[str, tuple[Path, int]], precision: str, options: argparse.Namespace, work: Path) -> dict[str, Timed]:
    """Build, time in turn, close. ``folders``: name -> model folder and side of the image."""
    host, calls, paths, sessions = load_target("host"), {}, {}, []
    for name, (folder, side) in folders.items():
        request = BuildRequest(folder, precision, side, side, host, work / "built" / precision / name, True)
        made = load_backend(options.backend).build(request)
        session = open_session(made.path, made.facts, 1)
        calls[name], paths[name] = call(session, side), made.path
        sessions.append(session)
    clock = time.perf_counter_ns if options.wall else time.process_time_ns
    taken = time_in_turn(calls, count=options.count, clock=clock)
    for session in sessions:
        session.close()
    return {name: Timed(layers_of(*folders[name], precision), ms, paths[name]) for name, ms in taken.items()}


def call(session: Any, side: int) -> Callable[[], object]:
    """The session on noise."""
    lq = np.random.default_rng(0).random((1, 3, side, side), np.float32)
    return lambda: session.run(lq)


def layers_of(folder: Path, side: int, precision: str) -> list[LayerCost]:
    """Layers of a model folder in one precision."""
    model = ModelFolder(folder)
    return onnx_layers(model.qdq("s8") if precision == "int8" else model.float, side, side)


def calibrated(options: argparse.Namespace, work: Path) -> list[Recorded]:
    """What the microbenchmarks teach about this machine."""
    host, found = load_target("host"), []
    sets = {m.name: folder for m, folder in write_set(work / "micro", default_set())}
    folders = {f"{name}@{side}": (folder, side) for side in (options.side, options.side // 4) for name, folder in sets.items()}
    for precision in PRECISIONS:
        start = time.perf_counter()
        got = timed(folders, precision, options, work)
        layers, ms = {k: t.layers for k, t in got.items()}, {k: t.ms for k, t in got.items()}
        how = {"backend": options.backend, "precision": precision, "threads": 1, "count": options.count, "machine": fingerprint()}
        found.append(learned(layers, ms, host, **how))
        error, seconds = found[-1].calibration.error, time.perf_counter() - start
        print(f"{precision}: {len(ms)} microbenchmarks in {seconds:.0f} s, left-out error {error:.1%}")
    if options.workspace:
        print(f"kept in {record(options.workspace, host, found)}")
    return found


def judge(name: str, predicted: list[Estimate], got: list[Timed]) -> bool:
    """Print a line; True where both bounds hold."""
    p, m = np.array([e.ms for e in predicted]), np.array([t.ms for t in got])
    ranks = float(spearmanr(p, m).statistic), float(kendalltau(p, m).statistic)
    errors = np.abs(p / m - 1)
    print(f"{name:<22} Spearman {ranks[0]:.3f}  Kendall {ranks[1]:.3f}  error: median {np.median(errors):.1%}, worst {errors.max():.1%}")
    return min(ranks) >= LEAST_RANK and float(np.median(errors)) <= LARGEST_ERROR


def by_kind(got: dict[str, Timed], rates: Rates, options: argparse.Namespace) -> None:
    """ONNX Runtime's profile beside the prediction, kind by kind, over all students."""
    pairs = []
    for t in got.values():
        lq = np.random.default_rng(0).random((1, 3, options.side, options.side), np.float32)
        names = [layer.name for layer in t.layers]
        pairs.append((estimate(t.layers, rates, backend=options.backend).layers, node_times(t.path, lq, names, options.count)))
    print(f"    {'kind':<22}{'predicted':>10}{'profile':>10}{'error':>8}   ms over all students")
    for row in kind_errors(pairs):
        print(f"    {row.kind:<22}{row.predicted_ms:>10.2f}{row.measured_ms:>10.2f}{row.error:>+8.0%}")


def published(target: Target) -> None:
    """NVIDIA's figures for the board beside the estimate."""
    print(f"\n{target.name}: predicted over published frames per second (int8, throughput)")
    errors = []
    for network in PUBLISHED:
        found = frames_per_second(network, target)
        errors.append(abs(found / network.fps - 1))
        print(f"    {network.name:<26}{found:>8.1f} / {network.fps:<7.1f} = {found / network.fps:.2f}   {network.remark}")
    print(f"    error: median {np.median(errors):.0%}, worst {max(errors):.0%}; throughput of batches, not the latency of one frame")


def group(title: str, students: dict[str, dict[str, Any]], rates: Rates, options: argparse.Namespace, work: Path) -> bool:
    """Time a group of students and print it beside the predictions; True where both bounds hold in both precisions."""
    nominal, good = load_target("host").rates["cpu"], True
    folders = {name: (student(config, work / title / name).path, options.side) for name, config in students.items()}
    for precision in PRECISIONS:
        got = timed(folders, precision, options, work / title)
        before = {name: estimate(t.layers, nominal) for name, t in got.items()}
        after = {name: estimate(t.layers, rates, backend=options.backend) for name, t in got.items()}
        print(f"\n{title}: {precision}, {options.side}x{options.side}, {options.backend}, ms")
        print(f"{'student':<12}{'measured':>9}{'nominal':>9}{'calibr.':>9}")
        for name, t in got.items():
            print(f"{name:<12}{t.ms:>9.2f}{before[name].ms:>9.2f}{after[name].ms:>9.2f}  {after[name].model}")
        judge(f"{precision} nominal", list(before.values()), list(got.values()))
        good &= judge(f"{precision} calibrated", list(after.values()), list(got.values()))
        if options.backend == "onnxruntime":
            by_kind(got, rates, options)
    return good


def main() -> int:
    """Time, fit, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--wall", action="store_true")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--published", action="store_true")
    options = parser.parse_args()
    good = True
    if not options.published:
        with tempfile.TemporaryDirectory() as tmp:
            fits = tuple(r.calibration for r in calibrated(options, Path(tmp)))
            rates = load_target("host").rates["cpu"].model_copy(update={"calibrations": fits})
            group("known", STUDENTS, rates, options, Path(tmp))
            good = group(f"drawn by seed {options.seed}", drawn(options.seed), rates, options, Path(tmp))
    published(load_target("jetson-xavier-nx"))
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
