"""Every artifact of a student against ONNX Runtime fp32 and against what the common tools make of it: one run, timed in turn.

    python benchmarks/compile.py [--model FOLDER | --checkpoint student.safetensors] [--activations relu hardswish] [--seeds 2]
                                 [--pairs DIR] [--size 256] [--threads 1] [--seconds 3] [--operators] [--clock wall] [--json FILE]

With --model what the quantize stage handed on (a run's ``stages/…-quantize/model``), its scales and trained weights as they are; with
--checkpoint that student, otherwise students of default size with random weights, one for each activation and seed, equalised and
calibrated by mean squared error, no training. DIR holds ``blur/`` and ``sharp/``; without it, the embedded photographs. Every fifth
pair calibrates (at most 8, by its middle), the others are judged, whole: artifacts of fixed size restore them in tiles. Every folder of
compile/ is built in every precision; what is not installed, or is no precision of it, is listed with the reason. Rows:

    p50, x       median in ms; how many times faster than ONNX Runtime fp32: the median of the ratios, taken turn by turn
    cv           1.4826 x median absolute deviation / median
    out dB       worst PSNR of an output against the float network's
    mean, worst  change of PSNR against the float network in dB: mean over the images, and the image that loses most
    parity       the compile stage's verdict, with the figure behind it
    ran          precision of the convolutions that ran, where the runtime tells

``today-`` rows: OpenVINO's and ONNX Runtime's defaults and LiteRT's own int8 converter. ``null`` measures the harness. ``--operators``
times every kernel of TVM's int8 network by itself. ``--clock cpu`` takes processor time instead of latency: on a busy machine a slow
artifact is interrupted more often than a fast one, and the ratios of the wall's times flatter the fast one. With one thread only.
"""

# ruff: noqa: E402 - the search path is set before the packages are imported
from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this file's own folder would hide the package of its name
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads of one runtime that spin take the core from the next

import numpy as np

from benchmarks.today import todays
from compile.candidates import Attempt, Plan, build
from compile.child import Child, Runtimes
from compile.judge import Judge, Judged
from compile.limits import Limits
from compile.parity import output_psnr
from compile.pictures import tile_of
from eval.latency import LatencyResult, speedup
from eval.quality import to_batch
from pipeline.contract import Pair, PairSource
from pipeline.errors import PipelineError
from pipeline.target import Target, load_target
from quantize.artifact import ModelFolder

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
HEAD = f"{'':<24}{'p50':>8}{'x':>7}{'cv':>6}{'MB':>7}{'build s':>9}{'out dB':>8}{'mean':>8}{'worst':>8}  {'parity':<17}ran"


class Pairs:
    """Pairs as a ``pipeline.contract.PairSource`` without scenes."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        """Pair at ``index``."""
        return self._pairs[index]

    def digest(self) -> str:
        """Nothing is stored under it."""
        return ""

    def scenes(self) -> dict[str, str]:
        """Nothing is compared with it."""
        return {}


def pairs(folder: Path | None) -> tuple[list[Pair], list[Pair]]:
    """Pairs that calibrate, and pairs that are judged."""
    from data.readers import folder as folders
    from data.readers import samples

    found: list[Pair] = []
    if folder is not None:
        source: PairSource = folders.READER.open(folders.FolderConfig(path=folder), Path(), 0)
        found = [source[i] for i in range(len(source))]
        return found[::5][:8], [p for i, p in enumerate(found) if i % 5]
    calibrate, test = (samples.READER.open(samples.SamplesConfig(split=split), Path(), 0) for split in ("calibrate", "test"))
    return [calibrate[i] for i in range(min(8, len(calibrate)))], [test[i] for i in range(len(test))]


def models(options: argparse.Namespace, calibration: Sequence[Any], work: Path) -> Iterator[tuple[str, ModelFolder]]:
    """Name and model folder of every student that is asked for."""
    if options.model:
        yield f"as quantized ({options.model})", ModelFolder(options.model)
        return
    for i, (name, folded) in enumerate(students(options)):
        yield name, quantized(folded, calibration, work / f"model{i}")


def students(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Name and float network, batch norm folded."""
    import torch

    from models import checkpoint
    from models.fold import fold_batchnorm
    from models.student.arch import ARCH

    torch.set_num_threads(1)
    if options.checkpoint:
        yield f"trained ({options.checkpoint.name})", fold_batchnorm(checkpoint.load(options.checkpoint).module)
        return
    for activation in options.activations:
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            module = ARCH.build(ARCH.config(activation=activation)).train()
            with torch.no_grad():
                for _ in range(3):  # statistics of batch norm
                    module(torch.rand(2, 3, 128, 128))
            yield f"random, {activation}, seed {seed}", fold_batchnorm(module.eval())


def quantized(folded: Any, batches: Sequence[Any], out: Path) -> ModelFolder:
    """The model folder of a float student, calibrated."""
    import torch

    from quantize.calibrate import observe, set_scales
    from quantize.equalise import equalise
    from quantize.folder import write_folder
    from quantize.insert import prepare

    images = [torch.from_numpy(b) for b in batches]
    ready = prepare(equalise(folded, images), unsigned=True)
    set_scales(ready, observe(ready, images), "mse")
    return write_folder(out, folded, "student", 17, ready)


def artifacts(folder: ModelFolder, options: argparse.Namespace, work: Path) -> Iterator[tuple[Attempt, float]]:
    """Every backend in compile/ in every precision, each in a process of its own, and the seconds that each took."""
    spec, host = importlib.util.find_spec("compile"), load_target("host")
    names = sorted(p.parent.name for p in Path(str(spec.origin if spec else "")).parent.glob("*/backend.py"))
    for plan in (Plan(name, precision, for_host=True, threads=options.threads) for name in names for precision in PRECISIONS):
        child = Child(plan.name, work / f"{plan.name}.log")
        try:
            attempt, seconds = child.call(built, plan, folder.path, host, work, options.size)
        except PipelineError as e:
            attempt, seconds = Attempt(plan, reason=f"not built: {e.what}; {e.hint}"), 0.0
        child.close()
        if attempt.built is not None and not attempt.built.facts["runs_here"]:
            attempt = Attempt(plan, reason="built; runs on the device only")
        yield attempt, seconds


def built(plan: Plan, model: Path, host: Target, work: Path, size: int) -> tuple[Attempt, float]:
    """An attempt and its seconds, imports included."""
    start = time.monotonic()
    attempt = build(plan, model, host, work, size)
    return attempt, time.monotonic() - start


def measure(
    folder: ModelFolder, calibration: Sequence[Any], source: Pairs, options: argparse.Namespace, work: Path
) -> list[dict[str, Any]]:
    """Build everything, time it in turn, judge it: a row for each."""
    work.mkdir()
    made = list(artifacts(folder, options, work))
    seconds = {a.plan.name: s for a, s in made}
    ours, today = [a for a, _ in made], list(todays(folder, calibration, work, options.threads))
    lacking = [a.plan.name for a in ours if f": has no {a.plan.precision}" in a.reason]
    print(f"no precision of its backend: {', '.join(lacking)}")
    for a in (*ours, *today):
        if a.built is None and a.plan.name not in lacking:
            print(f"{a.plan.name:<24}{a.reason}")
    ours, today = ([a for a in some if a.built is not None] for some in (ours, today))
    base, null = (Plan(name, "fp32", threads=options.threads).name for name in ("onnxruntime", "null"))
    with Runtimes(work / "runtimes") as runtimes:
        judge = Judge(folder, source, load_target("host"), options.size, options.seconds, runtimes, source)
        times, failed = judge.times([a for a in (*ours, *today) if a.plan.name != null], options.clock)
        judge.seconds = 0.05  # in turn with the others, the harness would take hours to fill its time
        times |= judge.times([a for a in ours if a.plan.name == null], options.clock)[0]
        judged = {a.plan.name: judge.judge_one(a, times.get(a.plan.name), failed.get(a.plan.name, "")) for a in ours}
        rows = [row(judge, a, times, judged.get(a.plan.name), failed) for a in (*ours, *today)]
    for r in (r for r in rows if "p50_ms" in r):
        r.update(x=speedup(times[base], times[r["name"]]), build_s=seconds.get(r["name"]))
    return rows


def row(judge: Judge, attempt: Attempt, times: dict[str, LatencyResult], judged: Judged | None, failed: dict[str, str]) -> dict[str, Any]:
    """The figures of an artifact."""
    name = attempt.plan.name
    if name not in times or attempt.built is None:
        return {"name": name, "failed": failed.get(name, "not timed")}
    opening, mine = judge.opening(attempt), times[name]
    session, plain = judge.session(opening), judge.session(judge.float_opening())
    drops = Limits(judge.float_quality(), 0, 0).drops(judge.quality(opening))
    return {
        "name": name,
        "p50_ms": mine.p50,
        "count": len(mine.ms),
        "cv": mine.cv,
        "mb": attempt.built.path.stat().st_size / 1e6,
        "out_db": min(output_psnr(session.run(b), plain.run(b)) for b in judge.batches),
        "mean_db": -float(np.mean(drops)),
        "worst_db": -max(drops),
        "parity": "" if judged is None else f"{judged.parity.verdict} {_figure(judged)}",
        "reason": "" if judged is None else judged.parity.reason,
        "ran": _ran(attempt.built.facts),
    }


def _figure(judged: Judged) -> str:
    rows = judged.parity.measurements
    task = [m.value for m in rows if m.name == "parity_task_psnr"]
    return f"{max(task, key=abs):+.3f}" if task else f"{next((m.value for m in rows), float('nan')):.1f}"


def _ran(facts: Any) -> str:
    """Convolutions by precision, as read back from the runtime."""
    counts: dict[str, int] = {}
    for kind in ("Convolution", "Deconvolution"):
        for precision, count in facts.get("executed", {}).get(kind, {}).items():
            counts[precision] = counts.get(precision, 0) + count
    if counts:
        return ", ".join(f"{precision} {count}" for precision, count in sorted(counts.items()))
    return f"{facts['partitions']} delegate partition" if "partitions" in facts else ""


def line(r: dict[str, Any]) -> str:
    """A row as text."""
    if "failed" in r:
        return f"{r['name']:<24}{r['failed']}"
    build_s = "" if r["build_s"] is None else f"{r['build_s']:.1f}"
    speed = f"{r['p50_ms']:8.2f}{r['x']:7.2f}{r['cv']:6.2f}{r['mb']:7.2f}{build_s:>9}"
    quality = f"{r['out_db']:8.1f}{r['mean_db']:+8.3f}{r['worst_db']:+8.3f}"
    return f"{r['name']:<24}{speed}{quality}  {r['parity']:<17}{r['ran']}"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", type=Path)
    which.add_argument("--checkpoint", type=Path)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--activations", nargs="+", default=["relu", "hardswish"])
    for name, kind, default in (("seeds", int, 2), ("size", int, 256), ("threads", int, 1), ("seconds", float, 3.0)):
        parser.add_argument(f"--{name}", type=kind, default=default)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--operators", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu goes with one thread: it adds up the time of all")
    return options


def main() -> int:
    """Build, judge, time, print."""
    options = parsed()
    calibrate, judged = pairs(options.pairs)
    source = Pairs(judged)
    calibration = [to_batch(tile_of(p.lq, options.size, options.size)) for p in calibrate]
    report = {}
    with tempfile.TemporaryDirectory() as tmp:
        for number, (name, folder) in enumerate(models(options, calibration, Path(tmp))):
            images = f"{len(source)} images judged, {len(calibration)} calibrate"
            print(f"\n{name}: {options.size}x{options.size}, {options.threads} thread(s), {options.clock} clock, {images}", flush=True)
            rows = measure(folder, calibration, source, options, Path(tmp) / str(number))
            report[name] = sorted(rows, key=lambda r: -r.get("x", 0.0))
            print(HEAD, *(line(r) for r in report[name]), sep="\n", flush=True)
            if options.operators:
                from compile.tvm.tune import measure_steps

                print(*measure_steps(folder, "int8", options.size), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
