"""Which channels, and from which layers: rankings and allocations at the same speed, before and after the same short recovery.

    python -m benchmarks.prune [--student FILE] [--teacher FILE] [--pairs DIR] [--ratio 0.3] [--steps 300]
        [--same ms|macs] [--only l1-allocated]

Every "allocated" row is cut to cost as many milliseconds on this host (or MACs, with --same macs, which other work on the machine does
not disturb) as the uniform ratio; at the end all rows are timed in turn, in one process. ``--pairs`` holds train/{blur,sharp} and
val/{blur,sharp}; without it the embedded photographs are used, and without ``--student`` one is trained on the training pairs first.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from data.readers import folder, samples
from eval.cost import count_macs
from eval.latency import speedup
from eval.payoff import time_networks
from models import checkpoint
from models.arch import build
from pipeline.contract import Artifact, Kind, PairSource, StageContext
from pipeline.target import TargetView, load_target
from prune.config import PruneConfig
from prune.goal import Goal
from prune.groups import Graph, cut
from prune.importance import l1
from prune.ladder import Climb
from prune.quality import loss_between, quality_of
from prune.shrink import uniform
from prune.stage import STAGE
from train.config import LossWeights, RecoverConfig, TrainConfig
from train.determinism import seeded
from train.recover import recover

SEED = 2026


class Quiet:
    """A progress that says nothing."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def log(self, text: str) -> None:
        """Nothing."""

    def update(self, label: str, done: int, total: int, **scalars: float) -> None:
        """Nothing."""


def main() -> None:
    """Print one row per ranking and allocation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--student", "--teacher", "--pairs"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--steps", type=int, default=300, help="of the recovery")
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--train", type=int, default=1500, help="steps of the student's own training, without --student")
    parser.add_argument("--images", type=int, default=16, help="test images")
    parser.add_argument("--same", choices=("ms", "macs"), default="ms", help="what uniform and allocated rows have in common")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as workdir:
        report(options, Path(workdir))


def report(options: argparse.Namespace, workdir: Path) -> None:
    """Prune, recover, time together, print."""
    data = sources(options)
    student = options.student or trained(data["train"], options, workdir)
    rows = {}
    for importance in ("l1", "taylor", "random"):
        if any(options.only in f"{importance}-{how}" for how in ("uniform", "allocated")):
            rows |= dict(variants(importance, student, options, data, workdir / importance))
    network = checkpoint.load(student).module
    reference = quality_of(network, data["test"])
    times = time_networks({"input": network, **{name: after for name, (_, after) in rows.items()}}, workdir, 256, 2.0)
    print(f"input: {reference.mean_psnr:.2f} dB on {len(data['test'])} images, {times['input'].p50:.2f} ms at 256x256, 1 thread")
    print(f"{'':18}{'G MACs':>7}{'speed':>7}{'before':>9}{'after':>9}{'worst':>9}{'SSIM':>9}")
    for name, (first, last) in rows.items():
        before, after = (loss_between(reference, quality_of(n, data["test"])) for n in (first, last))
        faster = speedup(times["input"], times[name])
        lost = f"{-before.mean:+9.3f}{-after.mean:+9.3f}{-after.worst:+9.3f}{-after.ssim:+9.4f}"
        print(f"{name:18}{count_macs(last) / 1e9:7.3f}{faster:6.2f}x{lost}", flush=True)


def variants(
    importance: str, student: Path, options: argparse.Namespace, data: dict[str, PairSource], workdir: Path
) -> Iterator[tuple[str, tuple[nn.Module, nn.Module]]]:
    """(name, (cut, cut and recovered)) of the uniform share and of the allocation that saves as much."""
    workdir.mkdir()
    training = {"steps": options.steps, "crop": options.crop}
    settings = {"importance": importance, "on": "host", "max_ratio": 0.75, "recover": {"train": training}, **budget(options, student)}
    climb = Climb(context(PruneConfig.model_validate(settings), student, options.teacher, data, workdir))
    for how in ("uniform", "allocated"):
        name = f"{importance}-{how}"
        if options.only in name:
            shared = uniform(climb.planner.groups, options.ratio, climb.planner.multiple)
            plan = shared if how == "uniform" else climb.planner.goal(1.0).plan
            first = climb.cut_to(climb.source.module, plan or {}, climb.scores)
            yield name, (first, climb.recovered(Goal(name, plan), workdir / how))


def budget(options: argparse.Namespace, student: Path) -> dict[str, object]:
    """What the allocated rows are to cost: as much as the uniform ratio."""
    if options.same == "ms":
        return {"ratio": options.ratio, "allocate": "sensitivity"}
    network = checkpoint.load(student).module
    scores = l1(network)
    plan = uniform(Graph(network).groups, options.ratio, load_target("host").channel_multiple)
    return {"to": {"macs": count_macs(cut(network, plan, scores)[0]) / 1e9}}


def context(config: PruneConfig, student: Path, teacher: Path | None, data: dict[str, PairSource], workdir: Path) -> StageContext:
    """The stage's context on this host."""
    inputs = {name: artifact(path) for name, path in (("model", student), ("teacher", teacher)) if path is not None}
    return StageContext(config, inputs, workdir, TargetView(load_target("host"), STAGE.reads_target), data, SEED, Quiet())


def artifact(path: Path) -> Artifact:
    """A checkpoint as a stage gets it."""
    return Artifact(Kind.CHECKPOINT, path, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)


def sources(options: argparse.Namespace) -> dict[str, PairSource]:
    """Pairs by role; the test pairs are seen by nothing but the table."""
    if options.pairs is None:
        settings = {"train": {}, "calibrate": {}, "test": {"count": options.images}}
        return {r: samples.READER.open(samples.SamplesConfig(split=r, **more), Path(), SEED) for r, more in settings.items()}  # type: ignore[arg-type]
    parts = {"train": ("train", None), "calibrate": ("train", 16), "test": ("val", options.images)}
    return {
        r: folder.READER.open(folder.FolderConfig(path=options.pairs / part, limit=limit), Path(), SEED)
        for r, (part, limit) in parts.items()
    }


def trained(source: PairSource, options: argparse.Namespace, workdir: Path) -> Path:
    """A student of the default configuration, trained for a few minutes against the sharp images."""
    with seeded(SEED, "student"):
        network = build("student", {})
    config = RecoverConfig(train=TrainConfig(steps=options.train, crop=options.crop), loss_weights=LossWeights(response=0, feature=0))
    recover(network, None, source, config, workdir / "student", Quiet(), SEED)
    path = workdir / "student.safetensors"
    checkpoint.save(path, network, "student")
    return path


if __name__ == "__main__":
    main()
