"""Memory that a frame of 3840x2160 takes through artifacts of one size, in tiles: the peak of resident memory above the opened model.

    python -m benchmarks.frame [--checkpoint STUDENT.safetensors] [--artifacts tvm-int8 ...] [--tiles 256 512] [--threads 1]

Artifacts are BACKEND-PRECISION, built for this machine; the words in brackets are the defaults, int8 being calibrated on the embedded
photographs. Each restores the frame by the pipeline's own tiling in a process of its own; TVM's also by the native runner. A line for
each: the tile, how many there are, the peak above the opened model, resident memory with the model open, seconds.

One reading each, on Linux. Peaks are exact (the kernel's high-water mark), the runner's to the 10 ms at which it is read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compile import quantized
from compile.pictures import tile_of
from compile.tvm.runner import write_runner
from data.readers import samples
from eval.memory import peak_above
from eval.quality import to_batch
from eval.receptive import receptive_field
from eval.session import BuildRequest, Built, load_backend, open_session
from eval.tiling import overlap_for, restore_tiled, tile_plan
from pipeline.target import load_target
from quantize.artifact import ModelFolder

FRAME = (2160, 3840)
SEED = 2026
ARTIFACTS = ("onnxruntime-fp32", "tvm-fp32", "tvm-int8")
Found = dict[str, float]


def resident(name: str, process: int | str = "self") -> int:
    """VmRSS (now) or VmHWM (highest ever) of a process in bytes; 0 of one that has just ended."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def frame() -> Any:
    """Uniform noise, uint8 [2160, 3840, 3]: what the pixels are does not change what they take."""
    return np.random.default_rng(SEED).integers(0, 256, (*FRAME, 3), np.uint8)


def probe(request: Mapping[str, Any]) -> Found:
    """Restore one frame in this process, which has nothing else in it: bytes above the opened model and with it, tiles, seconds."""
    with open_session(Path(request["path"]), request["facts"], request["threads"]) as session:
        opened, start = resident("VmRSS"), time.perf_counter()

        def restore() -> int:
            image = frame()
            plan = tile_plan(*FRAME, request["side"], request["halo"], request["multiple"], request["blend"])
            restore_tiled(image, session.run, plan)
            return len(plan)

        tiles, peak = peak_above(restore)
    return {"tiles": tiles, "peak": peak, "opened": opened, "seconds": time.perf_counter() - start}


def by_python(request: Mapping[str, Any]) -> Found:
    """``probe`` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.frame", "--probe", json.dumps(request)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: Found = json.loads(done.stdout)
    return found


def by_runner(request: Mapping[str, Any], folder: Path) -> Found:
    """The same by the native runner, from file to file."""
    program = folder / write_runner(request["facts"], folder)
    picture, threads = folder / "frame.ppm", str(request["threads"])
    picture.write_bytes(b"P6\n%d %d\n255\n" % FRAME[::-1] + frame().tobytes())
    with subprocess.Popen([program, "serve", request["path"], threads], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as waiting:
        waiting.stdout.readline()  # type: ignore[union-attr] # it is open, and has its say when the model is
        opened = resident("VmRSS", waiting.pid)
        waiting.stdin.close()  # type: ignore[union-attr]
    shape = [str(request[name]) for name in ("halo", "blend", "multiple")]
    command = [program, "restore", request["path"], picture, folder / "out.ppm", *shape, threads]
    start, highest = time.perf_counter(), 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            highest = max(highest, resident("VmHWM", process.pid))
            time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"{program} ended with {process.returncode}")
    plan = tile_plan(*FRAME, request["side"], request["halo"], request["multiple"], request["blend"])
    return {"tiles": len(plan), "peak": highest - opened, "opened": opened, "seconds": time.perf_counter() - start}


def model_folder(path: Path | None, out: Path) -> ModelFolder:
    """The student, or an untrained one of default size, with the scales of the embedded photographs."""
    from models import load_checkpoint
    from models.arch import build
    from models.fold import fold_batchnorm

    network = load_checkpoint(path).network if path else build("student", {})
    source = samples.READER.open(samples.READER.config(split="calibrate"), Path(), SEED)
    batches = [to_batch(tile_of(source[i].lq, 128, 128)) for i in range(min(8, len(source)))]
    return quantized(fold_batchnorm(network.eval()), batches, out)


def measure(name: str, folder: ModelFolder, side: int, threads: int, work: Path) -> None:
    """Build an artifact for one tile size, restore the frame by it and print what that took."""
    backend, _, precision = name.rpartition("-")
    multiple = folder.facts.size_multiple
    built: Built = load_backend(backend).build(
        BuildRequest(folder.path, precision, side, side, load_target("host"), work / f"{name}-{side}", for_host=True)
    )
    overlap = overlap_for(receptive_field(folder.path / "float.onnx", multiple), side)
    request = {"path": str(built.path), "facts": dict(built.facts), "side": side, "threads": threads, "multiple": multiple}
    request |= {"halo": overlap.halo, "blend": overlap.blend}
    show(name, side, by_python(request))
    if backend == "tvm":
        show(f"{name}, native", side, by_runner(request, work))


def show(name: str, side: int, found: Found) -> None:
    """One line."""
    peak, opened = (found[key] / 2**20 for key in ("peak", "opened"))
    print(f"{name:18} tile {side:4}  {found['tiles']:4} tiles  {peak:7.1f} MiB above {opened:6.1f}  {found['seconds']:6.1f} s", flush=True)


def main(words: Sequence[str] | None = None) -> None:
    """Measure everything asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--artifacts", nargs="+", default=ARTIFACTS)
    parser.add_argument("--tiles", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--probe", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.probe:
        print(json.dumps(probe(options.probe)))
        return
    print(f"{FRAME[1]}x{FRAME[0]}, {options.threads} thread(s): peak of resident memory above the opened model")
    with tempfile.TemporaryDirectory() as tmp:
        folder = model_folder(options.checkpoint, Path(tmp) / "model")
        for name in options.artifacts:
            for side in options.tiles:
                measure(name, folder, side, options.threads, Path(tmp))


if __name__ == "__main__":
    main()
