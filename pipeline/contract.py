"""The contract between the spine and everything that plugs into it.

A stage, a data reader and a target are *declarations* (``StageSpec``, ``ReaderSpec``, ``Target``) found by import path or
file name; what flows between them is an ``Artifact``; what is said about an artifact is a ``Measurement``. Nothing here has an
effect, and importing this module loads neither numpy nor torch.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray
    from pydantic import BaseModel

    from pipeline.target import TargetView

CONTRACT_VERSION = 1
"""Part of every cache key: raise it when a change below alters what a cached result means."""

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class Kind(enum.StrEnum):
    """What an artifact is; a stage says which kinds it consumes and produces."""

    CHECKPOINT = "checkpoint"  # one .safetensors file: weights + JSON header (models.checkpoint)
    ONNX = "onnx"  # a folder of ONNX flavours of one network (quantize.artifact)
    ENGINE = "engine"  # what a backend built
    BUNDLE = "bundle"  # the folder that goes to the device
    SAMPLES = "samples"  # a folder of restored test images, one PNG per pair, named after the pair
    REPORT = "report"  # a document


class Evidence(enum.StrEnum):
    """Where a number comes from. An emulator proves function, never speed."""

    ESTIMATED = "estimated"  # computed from a model of the device
    HOST = "host"  # measured on the machine that ran the pipeline
    TARGET = "target"  # measured on the device itself


class Better(enum.StrEnum):
    """The direction in which a measurement improves."""

    HIGHER = "higher"
    LOWER = "lower"


class Verdict(enum.StrEnum):
    """What a gate says. No evidence is not a pass, and NaN is not a pass."""

    PASSED = "passed"
    FAILED = "failed"
    UNPROVEN = "unproven"


class Status(enum.StrEnum):
    """What happened to a stage in a run."""

    RAN = "ran"
    RESTORED = "restored"
    RETREATED = "retreated"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A sealed result: immutable bytes (a file or a folder) with a content hash.

    ``facts`` is small JSON that a consumer needs before it opens the file: architecture, widths, precision, backend.
    """

    kind: Kind
    path: Path
    sha256: str
    bytes: int
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Output:
    """What a stage hands to the runner: a file or folder under its workdir, not yet sealed."""

    kind: Kind
    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measurement:
    """A number that knows its unit, direction, sample count and origin.

    ``values`` holds the per-image (or per-repetition) values behind ``value``, in the order of the data set, so that a gate can
    pair them with another stage's. ``conditions`` says under what the number holds (frame size, threads, backend, ...).
    """

    name: str
    value: float
    unit: str
    better: Better
    samples: int
    evidence: Evidence
    conditions: Mapping[str, Any] = field(default_factory=dict)
    values: tuple[float, ...] = ()

    @property
    def finite(self) -> bool:
        """Whether the value is a number that a gate can judge."""
        return math.isfinite(self.value)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One alternative that a stage built and judged; losers stay, with the reason."""

    name: str
    chosen: bool
    reason: str
    backend: str = ""
    precision: str = ""
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a stage returns. ``retreated`` says that it did not reach what it was asked for and handed on something milder."""

    outputs: Mapping[str, Output]
    measurements: Sequence[Measurement] = ()
    candidates: Sequence[Candidate] = ()
    notes: Sequence[str] = ()
    retreated: bool = False


@dataclass(frozen=True, slots=True)
class Pair:
    """A blurred image and its sharp original.

    lq, gt: uint8 RGB [H, W, 3] of equal size. ``name`` is unique within its source; ``scene`` groups pairs that show the same
    thing (train and test never share one).
    """

    lq: NDArray[np.uint8]
    gt: NDArray[np.uint8]
    name: str
    scene: str


@runtime_checkable
class PairSource(Protocol):
    """An opened data set: indexable, reproducible, and able to say what decides its bytes."""

    def __len__(self) -> int:
        """Number of pairs."""

    def __getitem__(self, index: int) -> Pair:
        """Pair at ``index``; the same index gives the same bytes every time."""

    def digest(self) -> str:
        """64 hex digits over everything that decides the pairs (files' content or synthesis settings and their sources)."""

    def scenes(self) -> Mapping[str, str]:
        """Scene name -> 64 hex digits of the content of its sharp image(s); used to refuse overlap between splits."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a data set (where: a file, a folder or a pair), or that will go badly in a run (where: the stage)."""

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class ReaderSpec:
    """A data reader: ``READER`` in ``data/readers/<name>.py``, chosen by ``source: <name>`` in the YAML.

    ``open(config, base, seed)``: ``base`` is the folder that relative paths refer to. It raises ``pipeline.errors.UsageError`` for
    anything the user can cause (missing file, empty folder, unpaired image).
    ``inspect(config, base, seed)``: what can be read, and everything that is wrong, without stopping at the first problem; None
    where nothing can be read at all. A reader without it has nothing that ``open`` would not name.
    """

    config: type[BaseModel]
    open: Callable[[Any, Path, int], PairSource]
    inspect: Callable[[Any, Path, int], tuple[PairSource | None, Sequence[Problem]]] | None = None


class Progress(Protocol):
    """How a stage talks while it runs. The runner opens one for each stage and closes it by leaving ``with``."""

    def __enter__(self) -> Progress:
        """The progress itself."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take the display off the terminal."""

    def log(self, text: str) -> None:
        """One line for the log file (and the terminal when verbose)."""

    def update(self, label: str, done: int, total: int, **scalars: float) -> None:
        """Progress of a long step; the display adds rate and ETA. ``scalars`` are shown beside it (loss, psnr)."""


@dataclass(frozen=True, slots=True)
class StageContext:
    """All that a stage may see. Undeclared inputs, target fields and data roles are not reachable from here.

    ``shared`` outlives the stage; no result may depend on what lies there (``pipeline.shared``).
    """

    config: Any
    inputs: Mapping[str, Artifact]
    workdir: Path
    target: TargetView
    data: Mapping[str, PairSource]
    seed: int
    progress: Progress
    shared: Path | None = None

    def keep(self, what: str) -> Path:
        """The folder for ``what`` (``pipeline.shared``) that other stages and runs find again; in the workdir where there is none."""
        return (self.shared or self.workdir) / what


@dataclass(frozen=True, slots=True)
class StageSpec:
    """A stage's declaration: ``STAGE = StageSpec(...)`` in the module that ``uses`` names.

    run          called with a StageContext; must write under ``ctx.workdir`` (and ``ctx.keep``) only, and resume from what it finds there
    config       pydantic model of the stage's ``with:`` block (extra keys forbidden, every field described)
    consumes     input name -> kind; a name ending in "?" is optional
    produces     output name -> kind
    data         roles of the ``data:`` block that it reads, e.g. ("train", "test")
    reads_target dotted field paths of the target that it reads; the view refuses others, and only these enter the key
    toolchain    distributions whose versions enter the key, e.g. ("torch", "onnxruntime")
    code         further packages or modules whose code enters the key, because they are found at run time
    code_of      configuration -> more of them, e.g. the module of a network of the user's own
    measures     "host" when the result rests on timing done on this machine: its fingerprint then enters the key
    cacheable    False: always run
    ranks        of several processes (torchrun) that share a run: "one", the first, runs it as if alone; "all" run it, with the same
                 context, to train together: they must take the same decisions, and what others than the first return is discarded
    preflight    import path, "module:function", of what can be said before anything runs: (its ``PlannedStage``, the ``Plan``) ->
                 Problems to warn of; it raises UsageError or ToolchainMissing for what would stop the run. A path, not the function, so
                 that its code is no part of the key
    """

    run: Callable[[StageContext], StageResult]
    config: type[BaseModel]
    consumes: Mapping[str, Kind]
    produces: Mapping[str, Kind]
    data: tuple[str, ...] = ()
    reads_target: tuple[str, ...] = ()
    toolchain: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    code_of: Callable[[Any], tuple[str, ...]] = lambda config: ()
    measures: str = ""
    cacheable: bool = True
    ranks: Literal["one", "all"] = "one"
    preflight: str = ""
