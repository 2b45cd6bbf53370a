"""Instructions per multiply-accumulate of a student's artifacts on one emulated aarch64 core: TVM, ONNX Runtime and LiteRT.

    python -m benchmarks.instructions STUDENT.safetensors PHOTOS [--size 128] [--cpu cortex-a76] [--precision int8]

STUDENT is a float checkpoint, PHOTOS a folder of PNG or JPEG images that calibrate it. Every artifact restores the same tile in one
thread, by the scripts that go to the board, under qemu with a plugin that counts executed instructions by class
(``targets/emulate/counting.py`` says how the start of the process is taken out). Prints the instructions that one tile takes, in
millions, and per multiply-accumulate of the float network. A count proves nothing about time: cores differ in how many instructions of
a class they finish in a cycle.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.compile import quantized
from compile.pictures import tile_of
from data.images import read_image
from eval.cost import count_macs
from eval.quality import to_batch
from eval.session import BuildRequest, load_backend
from models import checkpoint
from models.fold import fold_batchnorm
from pipeline.target import load_target
from quantize.artifact import ModelFolder
from targets.emulate.counting import instructions
from targets.emulate.emulator import EVIDENCE, Emulator
from targets.emulate.restore import Artifact

BACKENDS = ("tvm", "onnxruntime", "litert")
TARGETS = {"cortex-a76": "raspberry-pi-5", "carmel": "jetson-xavier"}


def count(folder: ModelFolder, backend: str, options: argparse.Namespace, lq: object, out: Path) -> dict[str, float]:
    """Instructions by class that one tile takes."""
    target = load_target(TARGETS[options.cpu])
    built = load_backend(backend).build(BuildRequest(folder.path, options.precision, options.size, options.size, target, out / backend))
    return instructions(Emulator(options.cpu), Artifact(built.path, backend, built.facts), lq)


def main() -> int:
    """Build, count, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("student", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--cpu", choices=sorted(TARGETS), default="cortex-a76")
    parser.add_argument("--precision", choices=["int8", "fp32"], default="int8")
    parser.add_argument("--json", type=Path, default=None, help="also write the counts here")
    options = parser.parse_args()
    files = sorted(p for p in options.photos.rglob("*") if p.suffix in (".png", ".jpg"))[:8]
    batches = [to_batch(tile_of(read_image(p), options.size, options.size)) for p in files]
    if not batches:
        parser.error(f"{options.photos} holds no .png and no .jpg to calibrate with")
    network = checkpoint.load(options.student).module.eval()
    macs = count_macs(network, options.size, options.size)
    print(f"{options.precision}, {options.size}x{options.size}, {macs / 1e6:.1f} M MACs, {options.cpu}; {EVIDENCE}")
    found = {}
    with tempfile.TemporaryDirectory() as tmp:
        folder = quantized(fold_batchnorm(network), batches, Path(tmp) / "model")
        for backend in BACKENDS:
            classes = count(folder, backend, options, batches[0], Path(tmp))
            found[backend] = {"total": sum(classes.values()), **classes}
            parts = ", ".join(f"{name} {n / 1e6:.2f}" for name, n in classes.items() if n)
            total = found[backend]["total"]
            print(f"{backend:<12}{total / 1e6:9.2f} M instructions  {total / macs:.4f} per MAC   {parts}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"macs": macs, "cpu": options.cpu, "precision": options.precision, "counts": found}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
