"""What each way to int8 costs in dB and gains in speed, on one network and one test set, in one run.

    python benchmarks/quantize.py [--checkpoint student.safetensors] [--train DIR] [--test DIR] [--contenders ptq qat clamp-ptq]
                                  [--steps 100] [--batch 8] [--train-crop 96] [--seeds 1] [--batchnorm folded] [--feature 0]

DIR holds ``blur/`` and ``sharp/``. Calibration pairs come from the training folder, spread over it; half of their scenes judge, and
neither calibrate nor train. Without arguments: the embedded photographs, and a student that is trained for a minute. Prints, for every
contender, the paired difference to the float network on the test set (mean, standard error, worst image, in dB) and how many times
faster than fp32 it is in ONNX Runtime, one thread, square tiles, all files timed in turn; then what the stage would hand on, and
training against the best calibration.
"""

# ruff: noqa: E402 - the search path is set before the packages are imported
from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this file's own folder would hide the package of its name

import torch

from data.readers import folder, samples
from eval.latency import speedup
from eval.payoff import ModelFile, tile_side, time_files
from models import checkpoint
from models.arch import build
from models.spec import size_multiple
from pipeline.contract import Artifact, Kind, Pair, PairSource, StageContext
from pipeline.target import TargetView, load_target
from quantize.candidates import compete
from quantize.contest import Contest
from quantize.folder import write_folder
from quantize.judged import Judged, Paired, paired, psnr_per_image
from quantize.stage import STAGE
from train.config import LossWeights, RecoverConfig, TrainConfig
from train.determinism import seeded
from train.recover import recover

SEED = 2026


class Talk:
    """Prints what is logged; ``pipeline.contract.Progress``."""

    def log(self, message: str) -> None:
        """Print."""
        print(f"  {message}", flush=True)

    def update(self, label: str, done: int, total: int, **scalars: float) -> None:
        """Nothing: a benchmark's output is its table."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to close."""


def source(path: Path | None, split: str, crop: int | None, limit: int | None = None) -> PairSource:
    """Pairs of a folder, or a split of the embedded photographs."""
    if path is None:
        return samples.READER.open(samples.READER.config(split=split), Path(), SEED)
    return folder.READER.open(folder.READER.config(path=path.resolve(), crop=crop, limit=limit), Path(), SEED)


def trained_student(train: PairSource, workdir: Path, steps: int) -> Path:
    """A student of the default architecture after a short training on ``train``."""
    with seeded(SEED, "student"):
        network = build("student", {})
    settings = TrainConfig(steps=steps, seed=SEED, devices=1)
    config = RecoverConfig(train=settings, loss="mse", loss_weights=LossWeights(response=0, feature=0))
    recover(network, None, train, config, workdir / "student", Talk(), SEED, label="student")
    path = workdir / "student.safetensors"
    checkpoint.save(path, network, "student", history=[{"stage": "benchmark", "steps": steps}])
    return path


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="float network; without it a student is trained")
    parser.add_argument("--train", type=Path, help="folder of pairs to train and calibrate on")
    parser.add_argument("--images", type=int, default=24, help="pairs of TRAIN that calibrate and judge, half each")
    parser.add_argument("--test", type=Path, help="folder of pairs that the figures are of")
    parser.add_argument("--crop", type=int, help="cut images of the folders to this size")
    parser.add_argument("--limit", type=int, help="test pairs, spread over the folder")
    parser.add_argument("--student-steps", type=int, default=400, help="training of the student, where none is given")
    parser.add_argument("--contenders", nargs="+", default=["ptq", "qat", "clamp-ptq"])
    parser.add_argument("--steps", type=int, default=100, help="of each training, the float control's too")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--train-crop", type=int, default=96, help="side of the training crops in pixels")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--batchnorm", default="folded", choices=["folded", "live"])
    parser.add_argument("--feature", type=float, default=0.0, help="weight of feature distillation from the float network")
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--workdir", type=Path)
    return parser.parse_args()


def contest_of(options: argparse.Namespace, workdir: Path) -> Contest:
    """The stage's contest under these options, guided by the float network itself."""
    train = source(options.train, "train", options.crop)
    calibrate = source(options.train, "calibrate", options.crop, options.images if options.train else None)
    path = options.checkpoint or trained_student(train, workdir, options.student_steps)
    config = {
        "contenders": options.contenders,
        "images": options.images,
        "calibration": ["percentile", "mse", "median", "minmax"],
        "batchnorm": options.batchnorm,
        "guide": "input",
        "seeds": options.seeds,
        "control": True,
        "tile": options.tile,
        "recover": {
            "train": {"steps": options.steps, "lr": options.lr, "batch": options.batch, "crop": options.train_crop, "devices": 1},
            "loss_weights": {"feature": options.feature},
        },
    }
    return Contest(
        StageContext(
            config=STAGE.config.model_validate(config),
            inputs={"model": Artifact(Kind.CHECKPOINT, path, "", path.stat().st_size)},
            workdir=workdir,
            target=TargetView(load_target("host"), STAGE.reads_target),
            data={"train": train, "calibrate": calibrate, "test": source(options.test, "test", options.crop, options.limit)},
            seed=SEED,
            progress=Talk(),
        )
    )


def speeds(contest: Contest, found: list[Judged]) -> dict[str, float]:
    """How many times faster than fp32 the contenders' files are in ONNX Runtime, timed in turn."""
    files = {}
    for candidate in (c for c in found if c.int8):
        path = contest.ctx.workdir / "models" / candidate.name
        written = write_folder(path, contest.folded, contest.source.arch, contest.ctx.target.opset, candidate.network)
        files[candidate.name] = ModelFile(written.qdq("u8"), "int8")
        files["fp32"] = ModelFile(written.float, "fp32")
    times = time_files(files, tile_side(size_multiple(contest.folded), contest.config.tile), contest.config.seconds)
    return {name: speedup(times["fp32"], result) for name, result in times.items()}


def table(contest: Contest, found: list[Judged], test: list[Pair]) -> dict[str, tuple[float, ...]]:
    """Print a line per contender; the PSNR of each on the test pairs."""
    values = {c.name: psnr_per_image(c.network, test) for c in [contest.float, *found]}
    ratios = speeds(contest, found)
    print(f"\n{'contender':<22}{'mean dB':>9}{'s.e.':>8}{'worst dB':>10}{'speed x':>9}   over {len(test)} test pairs, against float")
    for candidate in found:
        d: Paired = paired(values[candidate.name], values[contest.float.name])
        ratio = f"{ratios[candidate.name]:9.2f}" if candidate.int8 else f"{'fp32':>9}"
        print(f"{candidate.name:<22}{d.mean:+9.4f}{d.error:8.4f}{d.worst:+10.4f}{ratio}")
    return values


def main() -> int:
    """Calibrate, train, compare."""
    options = arguments()
    torch.set_num_threads(1)
    workdir = options.workdir or Path(tempfile.mkdtemp(prefix="quantize-"))
    workdir.mkdir(parents=True, exist_ok=True)
    contest = contest_of(options, workdir)
    begin = time.monotonic()
    found = compete(contest)
    seconds = time.monotonic() - begin
    test = contest.ctx.data["test"]
    values = table(contest, found, [test[i] for i in range(len(test))])
    chosen = contest.choose(found)
    calibrated = contest.best([c for c in found if c.int8 and not c.trained])
    print(f"\nfloat {sum(values['float']) / len(test):.3f} dB; {seconds:.0f} s for {len(found)} contenders; handed on: {chosen.name}")
    trained = [c for c in found if c.int8 and c.trained]
    if trained:
        best = contest.best(trained)
        d = paired(values[best.name], values[calibrated.name])
        print(f"{best.name} - {calibrated.name} on the test pairs: {d.mean:+.4f} ± {d.error:.4f} dB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
