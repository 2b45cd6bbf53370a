"""Reading a bundle: the folder that goes to the device.

::

    bundle.json          BundleFacts: target, artifacts, golden files, lineage
    MANIFEST.sha256      "<sha256>  <path>" of every other file, as ``sha256sum -c`` reads it
    artifacts/           what runs: the artifact chosen for the target, those for this host, what the board builds engines from
    reference/           the network as ONNX of free image size, for evaluation and estimates
    golden/              an input (uint8 [1, 3, H, W]) and each artifact's expected output for it
    runner/              a program per machine that runs TVM's artifacts, without Python and TVM; the copyright of what is linked in
    run.py               proves the artifact on the device; restores images, folders and videos
    bench.py             times it there
    board/               what both share
    build_engine.*       builds TensorRT engines there, where they are used
    README.md            what to do there

Nothing here knows a compiler: an artifact is opened through the import path in its facts.
"""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.cost import onnx_layers
from eval.session import Session, open_session
from pipeline.errors import UsageError, did_you_mean
from pipeline.store import hash_file
from targets.estimator import LayerCost, retype

SCHEMA = 2
MANIFEST, FACTS = "MANIFEST.sha256", "bundle.json"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Opening(_Model):
    """A file of the bundle and the facts that open it on this machine (``eval.session.open_session``)."""

    path: str = Field(description="relative to the bundle")
    facts: dict[str, Any]


class Golden(_Model):
    """What the device must reproduce."""

    input: str = Field(description=".npy or .npy.xz, uint8 [1, 3, H, W]; the artifact gets it as float32 * float32(1 / 255)")
    expected: str = Field(description=".npy or .npy.xz [1, 3, H, W]: float32, or uint8 when it is rounded to 8 bits")
    psnr_at_least: float = Field(description="least PSNR in dB of the device's output against the expected one")


class BundleArtifact(_Model):
    """One compiled form of the network."""

    name: str
    backend: str = Field(description="short name, which the device script knows")
    precision: str
    runs_on: str = Field(description="cpu or gpu: which of the target's rates estimate it")
    role: str = Field(description="target, host, or unproven: built for the target, its equality to be proven there")
    path: str = Field(description="relative to the bundle")
    sha256: str
    bytes: int = Field(ge=1)
    height: int = Field(ge=0, description="fixed input height in pixels, 0 = any")
    width: int = Field(ge=0, description="fixed input width in pixels, 0 = any")
    tile: tuple[int, int] = Field(default=(0, 0), description="height and width of tiles on the device; the most where the size is free")
    halo: int = Field(default=0, ge=0, description="least distance in pixels of a kept pixel from a tile's inner edge")
    blend: int = Field(default=0, ge=0, description="pixels over which neighbouring tiles are mixed, half on either side of a cut")
    runner: str = Field(default="", description="program that runs it without its runtime, relative to the bundle; empty = none")
    facts: dict[str, Any] = Field(description="what the backend says; facts.backend is its import path")
    float_precision: str = Field(description="precision of the layers that are not int8")
    reference: str = Field(description="the same network as ONNX of free size, relative to the bundle")
    evaluation: Opening = Field(description="what stands for the artifact on the machine that built the bundle")
    stands_in: bool = Field(description="evaluation is not the artifact itself: it needs the device")
    golden: Golden


class Network(_Model):
    """How the network is fed."""

    input: str
    output: str
    size_multiple: int = Field(ge=1, description="height and width must be multiples of this")


class Size(_Model):
    """An image size in pixels."""

    width: int
    height: int


class BundleFacts(_Model):
    """The content of ``bundle.json``."""

    schema_: int = Field(default=SCHEMA, alias="schema")
    target: str
    title: str
    network: Network
    frame: Size = Field(description="the target's frame")
    latency_budget_ms: float
    chosen: str = Field(description="name of the artifact chosen for the target")
    host: str = Field(description="name of the artifact that runs on the machine that built the bundle")
    artifacts: tuple[BundleArtifact, ...]
    recognise: dict[str, Any] = Field(default_factory=dict, description="how to know the board: facts it must show; empty = any")
    lineage: dict[str, Any] = Field(description="where it comes from: hashes of data, checkpoint and network, versions of the compilers")
    quantization: dict[str, Any] = Field(default_factory=dict, description="what is int8, and how its scales are held")
    scores: tuple[dict[str, Any], ...] = Field(default=(), description="measurements of the chosen artifact, with their evidence")
    licences: dict[str, str] = Field(default_factory=dict, description="of the packages whose work is in here")


class Bundle:
    """An opened bundle."""

    def __init__(self, path: Path, facts: BundleFacts) -> None:
        self.path, self.facts = path, facts

    @classmethod
    def open(cls, path: Path, *, verify: bool = True) -> Self:
        """Read a bundle.

        Args:
            path: its folder.
            verify: hash every file first.

        Raises:
            UsageError: not a bundle, a damaged or missing file, or a bundle of another schema.

        """
        if verify:
            verify_manifest(path)
        try:
            content = json.loads((path / FACTS).read_text(encoding="utf-8"))
            _require_schema(path, content)
            facts = BundleFacts.model_validate(content)
        except (OSError, UnicodeDecodeError):
            raise UsageError(
                str(path), "is not a bundle: it has no readable bundle.json", "give the folder that the compile stage made"
            ) from None
        except (json.JSONDecodeError, ValidationError) as e:
            raise UsageError(
                str(path / FACTS), f"is damaged ({str(e).splitlines()[0]})", "copy the bundle again, or run compile again"
            ) from None
        return cls(path, facts)

    def artifact(self, name: str = "") -> BundleArtifact:
        """Find an artifact by name, by default the one chosen for the target; UsageError when there is none of that name."""
        found = {a.name: a for a in self.facts.artifacts}
        name = name or self.facts.chosen
        if name not in found:
            raise UsageError(str(self.path), f"has no artifact '{name}'", did_you_mean(name, found))
        return found[name]

    def session(self, name: str = "", threads: int = 1) -> Session:
        """Open what stands for an artifact on this machine: itself where it runs here, else the same network in another runtime."""
        opening = self.artifact(name).evaluation
        return open_session(self.path / opening.path, opening.facts, threads)

    def layers(self, name: str, height: int, width: int) -> list[LayerCost]:
        """Layers of an artifact at one image size (multiples of ``size_multiple``), as the estimator reads them."""
        artifact = self.artifact(name)
        return artifact_layers(self.path / artifact.reference, height, width, artifact.float_precision)


def _require_schema(path: Path, content: Any) -> None:
    """Refuse another schema by its number, before its fields are looked at: they differ."""
    found = content.get("schema", SCHEMA) if isinstance(content, dict) else SCHEMA
    if found != SCHEMA:
        raise UsageError(str(path / FACTS), f"has schema {found}, this version reads {SCHEMA}", "run compile again")


def read_golden(path: Path) -> NDArray[Any]:
    """Array of a golden file, packed by xz or not; its type is the file's: see ``Golden``."""
    if path.suffix != ".xz":
        plain: NDArray[Any] = np.load(path)
        return plain
    with lzma.open(path) as f:
        found: NDArray[Any] = np.lib.format.read_array(f)
        return found


def is_bundle(path: Path) -> bool:
    """Whether a folder calls itself a bundle; ``Bundle.open`` finds out whether it is a good one."""
    return (path / FACTS).is_file()


def artifact_layers(reference: Path, height: int, width: int, float_precision: str) -> list[LayerCost]:
    """Layers of an ONNX file at one image size, those that are not int8 in ``float_precision``."""
    return retype(onnx_layers(reference, height, width), float_precision)


def verify_manifest(path: Path) -> int:
    """Hash every file that the manifest lists.

    Returns:
        How many files there are.

    Raises:
        UsageError: no manifest, a line that is none, a file missing, changed or outside the bundle, or bundle.json or bench.py not listed.

    """
    try:
        lines = (path / MANIFEST).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            str(path), f"is not a bundle: it has no readable {MANIFEST}", "give the folder that the compile stage made"
        ) from None
    listed = set()
    for line in lines:
        want, _, name = line.partition("  ")
        file = path / name
        if not name or not file.resolve().is_relative_to(path.resolve()) or not file.is_file() or hash_file(file) != want:
            raise UsageError(
                str(path), f"'{name or line}' is missing or differs from {MANIFEST}", "copy the bundle again, or run compile again"
            )
        listed.add(name)
    unlisted = sorted({FACTS, "bench.py"} - listed)
    if unlisted:
        raise UsageError(str(path / MANIFEST), f"does not list {unlisted[0]}", "copy the bundle again, or run compile again")
    return len(listed)
