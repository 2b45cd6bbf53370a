"""Whether reading and cropping keeps up with the training loop on this machine.

    python benchmarks/data_throughput.py [--seconds 4] [--crop 64] [--batch 8]

Prints the samples per second that the training data path (``CropDataset`` behind ``train.batches``) delivers at steady state from
several sources, with 0 and 2 data processes; those that the training loop takes from memory; their ratios; and what share of its time
the loop then waits for data. The frames are 1280x720 PNGs with camera noise, about as large as GoPro's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it, before torch is imported

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data.crops import CropDataset, Visits, fixed_batch
from data.images import write_image
from data.pack import Cut, pack
from models.arch import build
from pipeline.contract import PairSource
from pipeline.plan import load_reader
from pipeline.progress import StageProgress
from train.batches import IndexPlan, batches
from train.config import RecoverConfig, TrainConfig
from train.loop import fit
from train.recover import TeacherLoss

NETWORKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "NAFNet-w16": ("nafnet", {"width": 16, "enc_blk_nums": [1, 1, 1], "middle_blk_num": 1, "dec_blk_nums": [1, 1, 1]}),
    "student": ("student", {}),
}
FRAMES, DISTINCT = 160, 8  # pairs in the folder, which exceed the memory for decoded pairs; files behind them


@dataclass(frozen=True)
class Held:
    """Crops from memory, the same few over and over: what the loop takes when data costs nothing."""

    lq: NDArray[np.float32]
    gt: NDArray[np.float32]

    def __getitem__(self, k: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.lq[k % len(self.lq)], self.gt[k % len(self.gt)]


def write_frames(root: Path) -> None:
    """Pairs of 1280x720 PNGs below ``root``; few are distinct, the others are links to them."""
    import cv2

    samples = load_reader("samples", "benchmark")
    source = samples.open(samples.config(split="train", count=DISTINCT), root, 1)
    rng = np.random.default_rng(0)
    for i in range(FRAMES):
        for part in ("blur", "sharp"):
            path = root / part / f"{i:04d}.png"
            if i >= DISTINCT:
                os.link(root / part / f"{i % DISTINCT:04d}.png", path)
                continue
            image = source[i].lq if part == "blur" else source[i].gt
            frame = cv2.resize(image, (1280, 720), interpolation=cv2.INTER_CUBIC) + rng.normal(0, 2, (720, 1280, 3))
            write_image(path, np.clip(frame, 0, 255).astype(np.uint8))


@contextlib.contextmanager
def sources() -> Iterator[dict[str, PairSource]]:
    """What is measured, by name."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_frames(root / "frames")
        frames = _open("folder", root, path="frames", scene="folder")
        pack(_open("folder", root, path="frames", scene="folder", limit=FRAMES // 2), root / "packed", Cut(512, 256))
        yield {
            "samples, 96 pairs": _open("samples", root, split="train"),
            "sharp, 4000 pairs": _open("sharp", root, path="frames/sharp", count=4000),
            "folder of 720p": frames,
            "lmdb of 512 crops": _open("lmdb", root, path="packed"),
        }


def _open(name: str, base: Path, **options: Any) -> PairSource:
    reader = load_reader(name, "benchmark")
    return reader.open(reader.config(**options), base, 1)


def delivered(dataset: CropDataset, batch: int, workers: int, seconds: float, visits: Visits | None = None) -> float:
    """Samples per second once memory holds what it will hold: all pairs of a small set, or those between two visits."""
    once = _until_warm(dataset, batch)
    small = dataset.visits.each == 1
    warm = once * max(1, 2 * workers) if small else once if visits is None else 2 * batch
    dataset.visits = visits or dataset.visits
    plan = IndexPlan(dataset.length // batch, batch)
    with contextlib.closing(_generator(batches(dataset, plan, workers))) as parts:
        for _ in range(-(-warm // batch) + 2 * workers):
            next(parts)
        begin, count, spent = time.perf_counter(), 0, 0.0
        while spent < seconds:
            next(parts)
            count += batch
            spent = time.perf_counter() - begin
    return count / spent


def _until_warm(dataset: CropDataset, batch: int) -> int:
    """Items until one process has met all pairs of a small set, or those that it holds of a large one."""
    return max(dataset.count if dataset.visits.each == 1 else dataset.visits.each * dataset.visits.lag, 2 * batch)


def _generator(items: Iterator[tuple[Tensor, Tensor]]) -> Any:
    yield from items


def trained(name: str, dataset: Any, config: TrainConfig) -> tuple[float, float]:
    """Samples per second of the training loop, and the share of its time that it waited for data."""
    network = build(*NETWORKS[name])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        progress = StageProgress("benchmark", root / "log.txt", lambda *_, **__: None, quiet=True)
        with progress:
            loss = TeacherLoss(RecoverConfig(train=config), None)
            report = fit(network, loss, dataset, config, root / "work", progress, label="benchmark")
    return config.steps * config.batch / report.seconds, report.data_wait_share


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="per measurement")
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    length = 10_000_000
    with sources() as opened:
        held = Held(*fixed_batch(CropDataset(opened["samples, 96 pairs"], options.crop, 1, length), 32))
        taken = {}
        for name in NETWORKS:
            speed, _ = trained(name, held, TrainConfig(steps=20, batch=options.batch, crop=options.crop))
            steps = max(20, round(options.seconds * speed / options.batch))
            taken[name], _ = trained(name, held, TrainConfig(steps=steps, batch=options.batch, crop=options.crop))
            print(f"{name:<12} takes {taken[name]:7.0f} samples/s (crop {options.crop}, batch {options.batch})")
        print(f"\n{'samples/s':<22}{'processes':>10}{'one visit':>11}{'delivered':>11}" + "".join(f"{'/ ' + n:>14}" for n in NETWORKS))
        for name, source in opened.items():
            for workers in (0, 2):
                before, speed = (
                    delivered(CropDataset(source, options.crop, 1, length), options.batch, workers, options.seconds, visits)
                    for visits in (Visits(1, 0), None)
                )
                ratios = "".join(f"{speed / taken[n]:>14.1f}" for n in NETWORKS)
                print(f"{name:<22}{workers:>10}{before:>11.0f}{speed:>11.0f}{ratios}")
        print("\nshare of the loop's time spent waiting for data once memory holds what it will hold, data processes as configured")
        for name, source in opened.items():
            waits = []
            for network, rate in taken.items():
                steps = max(20, round(2 * options.seconds * rate / options.batch))
                config = TrainConfig(steps=steps, batch=options.batch, crop=options.crop)
                dataset = CropDataset(source, options.crop, 1, steps * options.batch)
                fixed_batch(dataset, min(steps * options.batch, _until_warm(dataset, options.batch)))
                waits.append(trained(network, dataset, config)[1])
            print(f"{name:<43}" + "".join(f"{f'{n} {w:.0%}':>18}" for n, w in zip(NETWORKS, waits, strict=True)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
