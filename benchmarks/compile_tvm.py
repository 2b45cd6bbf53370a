"""TVM's kernels against ONNX Runtime on this machine: one student, one thread, interleaved in one process.

    python benchmarks/compile_tvm.py STUDENT.safetensors PHOTOS [--size 256] [--seconds 3] [--operators]

STUDENT is a float checkpoint, PHOTOS a folder of images that calibrate it (mean squared error, a few seconds). Prints the median of each,
how many times faster than ONNX Runtime's fp32 it is (the median of the ratios taken round by round), the seconds of the build, and how
far the output is from that of the same file in ONNX Runtime. ``--operators`` times every kernel of the int8 network by itself.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.update(TVM_NUM_THREADS="1", OMP_NUM_THREADS="1")

import numpy as np

from compile.onnxruntime.backend import OnnxSession
from compile.parity import output_psnr
from compile.tvm import BACKEND
from compile.tvm.backend import compiled, target_dict
from compile.tvm.tune import measure_steps
from data.images import read_image
from eval.latency import compare, speedup
from eval.quality import to_batch
from eval.session import BuildRequest, open_session
from pipeline.target import load_target
from quantize.artifact import ModelFolder

BASE = "onnxruntime fp32"
Call = Callable[[np.ndarray], np.ndarray]


def quantized(student: Path, photos: list[np.ndarray], out: Path) -> ModelFolder:
    """The model folder of a float student, calibrated on photographs."""
    import torch

    from models import checkpoint
    from models.fold import fold_batchnorm
    from quantize.calibrate import observe, set_scales
    from quantize.folder import write_folder
    from quantize.insert import prepare

    torch.set_num_threads(1)
    folded = fold_batchnorm(checkpoint.load(student).module)
    ready = prepare(folded)
    set_scales(ready, observe(ready, [torch.from_numpy(to_batch(p)) for p in photos]), "mse")
    return write_folder(out, folded, "student", 17, ready)


def sessions(folder: ModelFolder, size: int, out: Path) -> tuple[dict[str, Call], dict[str, float]]:
    """What is compared, and the seconds that each build took."""
    runs: dict[str, Call] = {BASE: OnnxSession(folder.float).run, "onnxruntime int8": OnnxSession(folder.qdq("u8")).run}
    seconds = {}
    host = load_target("host")
    for precision in ("fp32", "int8"):
        request = BuildRequest(folder.path, precision, size, size, host, out, for_host=True)
        start = time.monotonic()
        built = BACKEND.build(request)
        seconds[f"tvm {precision}"] = time.monotonic() - start
        runs[f"tvm {precision}"] = open_session(built.path, built.facts, 1).run
    start = time.monotonic()
    runs["tvm fp32 by rule"] = without_kernels(replace(request, precision="fp32"))
    seconds["tvm fp32 by rule"] = time.monotonic() - start
    return runs, seconds


def without_kernels(request: BuildRequest) -> Call:
    """TVM's own operators, fused, with schedules by rule."""
    import tvm
    from tvm import relax

    _, executable = compiled(request, target_dict(request), "float", kernels=False)
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    return lambda lq: np.asarray(main(tvm.runtime.tensor(lq)).numpy())


def main() -> int:
    """Build, check, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("student", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--operators", action="store_true")
    options = parser.parse_args()
    size = options.size
    photos = [read_image(p) for p in sorted(options.photos.iterdir())[:8]]
    photos = [p[:size, :size] for p in photos if min(p.shape[:2]) >= size]
    with tempfile.TemporaryDirectory() as tmp:
        folder = quantized(options.student, photos, Path(tmp) / "model")
        runs, seconds = sessions(folder, size, Path(tmp))
        report(folder, runs, seconds, to_batch(photos[0]), options.seconds)
        if options.operators:
            for line in measure_steps(folder, "int8", size):
                print(line)
    return 0


def report(folder: ModelFolder, runs: dict[str, Call], seconds: dict[str, float], lq: np.ndarray, least: float) -> None:
    """One line for each."""
    times: dict[str, Any] = compare({name: (lambda run=run: run(lq)) for name, run in runs.items()}, min_seconds=least, warmup=5)
    same = {"int8": OnnxSession(folder.qdq("u8"), optimise=False).run(lq), "fp32": OnnxSession(folder.float).run(lq)}
    for name, run in runs.items():
        want = same["int8" if "int8" in name else "fp32"]
        built = f"built in {seconds[name]:.1f} s" if name in seconds else ""
        ratio, found = speedup(times[BASE], times[name]), times[name]
        print(f"{name:<18}{found.p50:8.2f} ms {ratio:6.2f} x   {output_psnr(run(lq), want):6.1f} dB from the same file   {built}")


if __name__ == "__main__":
    raise SystemExit(main())
