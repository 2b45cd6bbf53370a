"""How many times faster a distillation step is where the teacher's answers are kept, against asking the teacher about every crop.

    python benchmarks/teacher_cache.py [--rounds 3] [--steps 16] [--images 8] [--side 256] [--feature 2e-4]

A NAFNet of width 32 (fresh weights: speed does not depend on them) teaches the default student: batch 8, crops of 64 pixels. The two
ways, ``teacher_cache: off`` and ``auto`` (the stages' default, which keeps the answers here because that is less work), take turns,
``rounds`` times, each in a training of its own; the ratio is the median over the rounds, so that other work on the machine during one of
them does not decide it. With answers kept a training has five times the steps, so that its start does not decide how long it waits for
data. Computing the answers once is not part of a step and is printed apart, with the steps after which it has paid for itself; so is the
processor time that a batch takes, for on a core with other work a thread also waits where nothing is missing.
Exit code 1 below the goal.
"""

# ruff: noqa: E402 - the search path is set before the packages are imported
from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this file's own folder would hide the package of its name

import numpy as np
import torch

from data.readers.samples import READER
from models.arch import build
from pipeline.contract import Pair, PairSource
from train.batches import IndexPlan
from train.config import CacheMode, LossWeights, RecoverConfig, TrainConfig
from train.determinism import seeded
from train.features import feature_loss
from train.job import FitReport
from train.recover import recover, training_crops
from train.teacher_cache import open_cache

TEACHER = {"width": 32, "enc_blk_nums": [1, 1, 1, 28], "middle_blk_num": 1, "dec_blk_nums": [1, 1, 1, 1]}
GOAL_RATIO, GOAL_WAIT = 4.0, 0.05
LONGER = {"off": 1, "auto": 5}


class Quiet:
    """A progress that says nothing."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to take down."""

    def log(self, text: str) -> None:
        """Say nothing."""

    def update(self, label: str, done: int, total: int, **scalars: float) -> None:
        """Show nothing."""


class Held:
    """The pairs of a source, decoded beforehand, as a training finds them after its first round."""

    def __init__(self, source: PairSource) -> None:
        self.source, self.pairs = source, [source[i] for i in range(len(source))]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]

    def digest(self) -> str:
        """As the source's."""
        return self.source.digest()

    def scenes(self) -> Mapping[str, str]:
        """As the source's."""
        return self.source.scenes()


def one(mode: CacheMode, options: argparse.Namespace, source: PairSource, folder: Path, number: int) -> tuple[FitReport, float, float]:
    """One short training: its report, the seconds that it took besides its steps, and the processor's milliseconds per step."""
    with seeded(1):
        teacher, student = build("nafnet", TEACHER), build("student", {})
    train = TrainConfig(steps=LONGER[mode] * options.steps, batch=options.batch, crop=options.crop, devices=1, checkpoint_seconds=1e9)
    config = RecoverConfig(train=train, loss_weights=LossWeights(feature=options.feature), teacher_cache=mode, cache_gb=100)
    begin, busy = time.monotonic(), time.process_time()
    workdir = folder / f"{mode}-{number}"
    report = recover(student, teacher, source, config, workdir, Quiet(), 1, cache_folder=folder / "answers")
    if mode == "auto" and not list((folder / "answers").glob("*/*.safetensors")):
        raise SystemExit(f"auto kept no answers ({report.teacher}): take more --steps, or fewer or smaller images")
    return report, time.monotonic() - begin - report.seconds, (time.process_time() - busy) / report.steps * 1e3


def batch_ms(options: argparse.Namespace, source: PairSource, folder: Path) -> float:
    """The processor's milliseconds for one batch with its answers, as ``train.batches`` stacks it."""
    train = TrainConfig(steps=LONGER["auto"] * options.steps, batch=options.batch, crop=options.crop, seed=1)
    with seeded(1):
        teacher, student = build("nafnet", TEACHER), build("student", {})
    config = RecoverConfig(train=train, teacher_cache="on", cache_gb=100)
    features = feature_loss(student, teacher) if options.feature else None
    wanted = True, features.wanted if features is not None else ()
    crops = training_crops(source, train, open_cache(teacher, source, config, train, wanted, folder / "answers", Quiet(), "batch"))
    times = []
    for rows in IndexPlan(train.steps, train.batch):
        begin = time.thread_time()
        [np.stack(images) for images in zip(*(crops[k] for k in rows), strict=True)]
        times.append(time.thread_time() - begin)
    return float(np.median(times)) * 1e3


def main() -> int:
    """Take turns, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rounds", 3), ("steps", 16), ("images", 8), ("side", 256), ("batch", 8), ("crop", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--feature", type=float, default=2e-4, help="weight of the features; 0 keeps the response alone")
    options = parser.parse_args()
    source = Held(READER.open(READER.config(split="train", count=options.images, size=options.side), Path(), 1))
    found: dict[CacheMode, list[FitReport]] = {"off": [], "auto": []}
    filling: list[float] = []
    busy: dict[CacheMode, list[float]] = {"off": [], "auto": []}
    with tempfile.TemporaryDirectory(prefix="teacher-cache-") as folder:
        for number in range(options.rounds):
            for mode, reports in found.items():
                report, besides, ms = one(mode, options, source, Path(folder), number)
                busy[mode].append(ms)
                reports.append(report)
                filling += [besides] if mode == "auto" else []
                print(f"round {number}, cache {mode:<4}{report.steps_per_second:8.2f} steps/s   {besides:6.1f} s besides the steps")
        batch = batch_ms(options, source, Path(folder))
        size = sum(p.stat().st_size for p in Path(folder).glob("answers/*/*.safetensors"))
    online, kept = (sum(r.steps for r in rs) / sum(r.seconds for r in rs) for rs in found.values())
    waits = {mode: sum(r.data_wait_share * r.seconds for r in rs) / sum(r.seconds for r in rs) for mode, rs in found.items()}
    ratios = [b.steps_per_second / a.steps_per_second for a, b in zip(*found.values(), strict=True)]
    print(
        f"{torch.get_num_threads()} thread(s), {'GPU' if torch.cuda.is_available() else 'CPU'}; batch {options.batch}, crop {options.crop}"
    )
    once = max(0.0, filling[0] - float(np.median(filling[1:]))) if len(filling) > 1 else filling[0]
    print(f"answers to {options.images} images of {options.side} x {options.side}: {size / 1e6:.1f} MB, {once:.1f} s once, ", end="")
    print(f"earned back after {once / (1 / online - 1 / kept):.0f} steps" if kept > online else "never earned back")
    print(f"online {online:.2f} steps/s, waiting for data {waits['off']:.1%}")
    print(f"kept   {kept:.2f} steps/s, waiting for data {waits['auto']:.1%} (goal: below {GOAL_WAIT:.0%})")
    step = float(np.median(busy["auto"][1:] or busy["auto"]))
    print(f"a batch takes {batch:.1f} ms of processor time, {batch / step:.1%} of a step's {step:.0f} ms")
    ratio = float(np.median(ratios))
    print(f"ratio  {ratio:.2f} (rounds: {np.min(ratios):.2f} to {np.max(ratios):.2f}; goal: at least {GOAL_RATIO:g})")
    return int(not (ratio >= GOAL_RATIO and waits["auto"] < GOAL_WAIT))


if __name__ == "__main__":
    raise SystemExit(main())
