"""How fast every backend on this machine runs one network, as ratios to ONNX Runtime fp32, measured in turn in one process.

    python benchmarks/compile_backends.py MODEL [--images DIR] [--side 256] [--threads 1] [--seconds 3]

MODEL is a folder of the quantize stage (the output ``model``). Every folder of compile/ is tried in every precision; what is not
installed, or is no precision of it, is listed with the reason. Parity: output against the source as it is written, the worst of the
crops; for int8 also the change of the mean task PSNR against the fake-quantized network, where DIR has blur/ and sharp/.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.judge import tile_of
from compile.onnxruntime.backend import OnnxSession
from compile.parity import output_psnr
from eval.latency import LatencyResult, compare, speedup
from eval.quality import psnr, to_batch, to_image
from eval.session import BuildRequest, Built, Session, load_backend, open_session
from pipeline.contract import Pair
from pipeline.errors import PipelineError
from pipeline.target import load_target
from quantize.artifact import ModelFolder

BASE = "onnxruntime-fp32"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def backends() -> list[str]:
    """The folders of compile/ that hold a backend."""
    spec = importlib.util.find_spec("compile")
    return sorted(p.parent.name for p in Path(str(spec.origin if spec else "")).parent.glob("*/backend.py"))


def pairs(folder: Path | None, side: int) -> list[Pair]:
    """Middles of the images in DIR/blur with those in DIR/sharp; without DIR, noise that nothing is judged on."""
    if folder is None:
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        return [Pair(noise, noise, "noise", "noise")]
    from data.readers.folder import READER, FolderConfig

    source = READER.open(FolderConfig(path=str(folder)), Path(), 0)
    found = (source[i] for i in range(0, len(source), max(1, len(source) // 24)))
    return [Pair(tile_of(p.lq, side, side), tile_of(p.gt, side, side), p.name, p.scene) for p in found]


def built(name: str, precision: str, options: argparse.Namespace, work: Path) -> tuple[Built | None, str]:
    """An artifact and the seconds it took, or None and the reason."""
    start = time.perf_counter()
    request = BuildRequest(options.model, precision, options.side, options.side, load_target("host"), work / name / precision, True)
    try:
        made = load_backend(name).build(request)
    except PipelineError as e:
        return None, f"{e.what}; {e.hint}"
    return (made, f"{time.perf_counter() - start:.1f}") if made.facts["runs_here"] else (None, "runs on the device only")


def parity(session: Session, folder: ModelFolder, int8: bool, images: list[Pair]) -> tuple[float, float]:
    """Worst PSNR against the source in dB, and the change of the mean task PSNR in dB."""
    with OnnxSession(folder.qdq("s8") if int8 else folder.float, optimise=False) as source:
        outputs = [(p.gt, session.run(to_batch(p.lq)), source.run(to_batch(p.lq))) for p in images]
    change = [psnr(to_image(got), gt) - psnr(to_image(want), gt) for gt, got, want in outputs]
    return min(output_psnr(got, want) for _, got, want in outputs), float(np.mean(change))


def timed(sessions: dict[str, Session], lq: NDArray[np.float32], seconds: float) -> dict[str, LatencyResult]:
    """Times of the sessions, in turn."""
    return compare({k: lambda s=s: s.run(lq) for k, s in sessions.items()}, min_seconds=seconds, min_count=30)


def main() -> int:
    """Build, judge, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=Path)
    for name, kind, default in (("side", int, 256), ("threads", int, 1), ("seconds", float, 3.0)):
        parser.add_argument(f"--{name}", type=kind, default=default)
    options = parser.parse_args()
    folder, images = ModelFolder(options.model), pairs(options.images, options.side)
    sessions: dict[str, Session] = {}
    facts: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as work:
        for name in backends():
            for precision in PRECISIONS:
                made, words = built(name, precision, options, Path(work))
                if made is None:
                    print(f"{name}-{precision:<5} {words}")
                    continue
                key = f"{name}-{precision}"
                sessions[key] = open_session(made.path, made.facts, options.threads)
                facts[key] = {**made.facts, "seconds": words, "mb": made.path.stat().st_size / 1e6}
        lq = to_batch(images[0].lq)
        harness = {"null-fp32": sessions.pop("null-fp32")}  # apart: in turn with the others it would take hours to fill its time
        times = timed(sessions, lq, options.seconds) | timed(harness, lq, 0.05)
        sessions |= harness
        print(f"\n{options.side}x{options.side}, {options.threads} thread(s), {len(images)} images")
        print(f"{'':<18}{'p50 ms':>8}{'x':>7}{'cv':>7}{'build s':>9}{'MB':>7}{'parity dB':>11}{'task dB':>9}")
        for key, result in sorted(times.items(), key=lambda item: item[1].p50):
            worst, change = parity(sessions[key], folder, key.endswith("int8"), images)
            row = f"{result.p50:8.2f}{speedup(times[BASE], result):7.2f}{result.cv:7.2f}{facts[key]['seconds']:>9}{facts[key]['mb']:7.2f}"
            print(f"{key:<18}{row}{worst:11.1f}{change:+9.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
