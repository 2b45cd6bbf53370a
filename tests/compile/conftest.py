from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.contract import Artifact, Kind, StageContext, StageResult
from pipeline.store import hash_path
from pipeline.target import Frame, Target, TargetView, load_target
from tests.compile.networks import SMALL, Photos, write_model_folder


class Quiet:
    """A progress that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)

    def update(self, label: str, done: int, total: int, **scalars: float) -> None:
        assert done <= total


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("model") / "folder", SMALL)


@pytest.fixture(scope="session")
def float_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("model") / "float", SMALL, int8=False)


@pytest.fixture(scope="session")
def jetson() -> Target:
    """The board, with a frame small enough for a test."""
    return load_target("jetson-xavier").model_copy(update={"frame": Frame(width=316, height=180)})


def compile_stage(model: Path, target: Target, workdir: Path, said: list[str] | None = None, **config: object) -> StageResult:
    """Run the stage; ``said`` gets the lines of its log."""
    from compile.stage import STAGE

    workdir.mkdir(parents=True, exist_ok=True)
    settings = STAGE.config(**{"tile": 96, "seconds": 0.05, **config})
    inputs = {"model": Artifact(Kind.ONNX, model, hash_path(model), 1)}
    view = TargetView(target, STAGE.reads_target)
    progress = Quiet()
    data = {"calibrate": Photos(), "test": Photos(2, first=3)}
    result = STAGE.run(StageContext(settings, inputs, workdir, view, data, 1, progress))
    if said is not None:
        said += progress.lines
    return result


@pytest.fixture(scope="session")
def compiled(model_folder: Path, jetson: Target, tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    """The stage's result for the board."""
    return compile_stage(model_folder, jetson, tmp_path_factory.mktemp("compile") / "work")


@pytest.fixture(scope="session")
def bundle(compiled: StageResult) -> Path:
    return compiled.outputs["bundle"].path
