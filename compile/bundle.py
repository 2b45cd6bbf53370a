"""Writing a bundle; ``eval.bundle`` says what is in it and reads it. The same inputs give the same bytes.

A backend's folder may hold two modules that are found by their names: ``script`` (``build_script(artifacts, chosen)`` and
``DEVICE_FILES``: what builds its engines on the board) and ``runner`` (``write_runner(facts, folder)``: a program that runs its artifacts
there; ``LINKED``: licences of what is linked into it).
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import lzma
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import targets.device
from compile.candidates import Attempt
from compile.judge import Opening
from compile.onnxruntime.backend import OnnxSession, onnxruntime_facts
from compile.pictures import tile_of
from compile.readme import readme
from eval.bundle import FACTS, MANIFEST, BundleArtifact, BundleFacts, Golden
from eval.bundle import Opening as BundleOpening
from eval.quality import to_batch, to_image
from eval.session import load_backend
from eval.tiling import Overlap
from pipeline.store import hash_file

GOLDEN_DB = {"fp32": 60.0, "fp16": 45.0, "bf16": 40.0, "int8": 40.0}
"""Least PSNR of a device's output against the golden one. int8 kernels that add in another order agree to 45-58 dB of each other;
fp16 keeps 11 bits, bf16 8."""

FLOAT_PIXELS = 512 * 512
"""Golden images of more pixels repeat one patch, are rounded to 8 bits and packed: a float frame of 1920x1080 is 25 MB."""

PATCH = (272, 480)
"""Height and width of that patch, multiples of 16: the network sees it at every place of the frame, and every pixel is still compared,
but a dictionary coder needs it only once."""


@dataclass(frozen=True, slots=True)
class Packed:
    """An artifact to pack: its candidate, its network as ONNX of free size, what runs for it here, and its role (``BundleArtifact``).

    ``overlap`` is that of its tiles.
    """

    attempt: Attempt
    reference: Path
    opening: Opening
    role: str
    overlap: Overlap


def has_runner(attempt: Attempt) -> bool:
    """Whether an artifact brings a program that runs it without Python."""
    return attempt.built is not None and _module(attempt.built.facts["backend"], "runner") is not None


def linked(packed: Sequence[Packed]) -> dict[str, str]:
    """Licences, by name, of what is linked into the programs that the artifacts bring."""
    runners = [_module(p.attempt.built.facts["backend"], "runner") for p in packed if p.attempt.built is not None]
    return {name: licence for runner in runners if runner is not None for name, licence in runner.LINKED.items()}


def write_bundle(path: Path, packed: Sequence[Packed], facts: Mapping[str, Any], image: NDArray[np.uint8], tile: int) -> BundleFacts:
    """Write a bundle folder; what was there before goes.

    Args:
        path: the folder.
        packed: what goes in, at least the chosen artifact and the host's.
        facts: the fields of ``BundleFacts`` that are not about artifacts.
        image: uint8 RGB [H, W, 3], the source of the golden inputs.
        tile: side in pixels of the golden input of artifacts of free size.

    Raises:
        StageFailed: the program that runs an artifact cannot be built.

    """
    shutil.rmtree(path, ignore_errors=True)
    for folder in ("artifacts", "reference", "golden"):
        (path / folder).mkdir(parents=True)
    multiple = int(facts["network"]["size_multiple"])
    frame = tuple(-(-int(facts["frame"][side]) // multiple) * multiple for side in ("height", "width"))
    artifacts = tuple(_pack(path, item, image, tile, (frame[0], frame[1])) for item in packed)
    content = BundleFacts.model_validate({**facts, "artifacts": artifacts})
    _write(path / FACTS, json.dumps(content.model_dump(mode="json", by_alias=True), indent=1, sort_keys=True) + "\n")
    _device_files(path, content)
    _write(path / "README.md", readme(content))
    write_manifest(path)
    return content


def write_manifest(path: Path) -> None:
    """Write MANIFEST.sha256 over every file of the folder, in the form that ``sha256sum -c`` reads."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != MANIFEST)
    _write(path / MANIFEST, "".join(f"{hash_file(p)}  {p.relative_to(path).as_posix()}\n" for p in files))


def golden_image(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """An input for the proof on the device: uint8 [height, width, 3].

    The middle of ``image``, mirrored beyond its borders; where that is more than ``FLOAT_PIXELS``, a patch of it over and over.
    """
    if height * width <= FLOAT_PIXELS:
        return tile_of(image, height, width)
    patch = tile_of(image, *PATCH)
    return np.ascontiguousarray(patch[np.arange(height)[:, None] % PATCH[0], np.arange(width) % PATCH[1]])


def _pack(root: Path, item: Packed, image: NDArray[np.uint8], tile: int, frame: tuple[int, int]) -> BundleArtifact:
    plan, built = item.attempt.plan, item.attempt.built
    if built is None:
        raise ValueError(f"{plan.name} was not built")
    relative = f"artifacts/{plan.name}{built.path.suffix}"
    shutil.copyfile(built.path, root / relative)
    reference = f"reference/{item.reference.name}"
    shutil.copyfile(item.reference, root / reference)
    stand_in = BundleOpening(path=reference, facts=onnxruntime_facts(plan.precision))
    itself = BundleOpening(path=relative, facts=dict(built.facts))
    fixed = (int(built.facts["height"]), int(built.facts["width"]))
    golden = golden_image(image, fixed[0] or tile, fixed[1] or tile)
    runner = _module(built.facts["backend"], "runner")
    return BundleArtifact(
        name=plan.name,
        backend=load_backend(plan.use).name,
        precision=plan.precision,
        runs_on=plan.runs_on,
        role=item.role,
        path=relative,
        sha256=hash_file(root / relative),
        bytes=(root / relative).stat().st_size,
        height=fixed[0],
        width=fixed[1],
        tile=fixed if fixed[0] else frame,
        halo=item.overlap.halo,
        blend=item.overlap.blend,
        runner=runner.write_runner(built.facts, root) if runner else "",
        facts=dict(built.facts),
        float_precision=built.facts["float_precision"],
        reference=reference,
        evaluation=stand_in if item.opening.stands_in else itself,
        stands_in=item.opening.stands_in,
        golden=_golden(root, plan.name, plan.precision, root / reference, golden),
    )


def _golden(root: Path, name: str, precision: str, reference: Path, image: NDArray[np.uint8]) -> Golden:
    height, width = image.shape[:2]
    with OnnxSession(reference) as session:
        output = session.run(to_batch(image))
    large = height * width > FLOAT_PIXELS
    expected: NDArray[Any] = _channels_first(to_image(output)) if large else output
    source = _save(root, f"golden/input-{width}x{height}.npy", _channels_first(image), large)
    return Golden(input=source, expected=_save(root, f"golden/{name}.npy", expected, large), psnr_at_least=GOLDEN_DB[precision])


def _channels_first(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None])


def _save(root: Path, relative: str, values: NDArray[Any], packed: bool) -> str:
    """Write an array below ``root``, in xz's form when it is to be packed; returns where."""
    content = io.BytesIO()
    np.lib.format.write_array(content, values, version=(1, 0))
    relative += ".xz" if packed else ""
    (root / relative).write_bytes(lzma.compress(content.getvalue()) if packed else content.getvalue())
    return relative


def _device_files(path: Path, content: BundleFacts) -> None:
    """Write what runs on the device: the scripts, and what the artifacts' backends add to them."""
    device = Path(targets.device.__file__).parent
    for file in sorted(device.rglob("*.py")):
        relative = file.relative_to(device)
        if relative != Path("__init__.py"):
            (path / relative).parent.mkdir(exist_ok=True)
            _write(path / relative, file.read_text(encoding="utf-8"), mode=0o755 if relative.parent == Path() else 0o644)
    for backend in sorted({str(a.facts["backend"]) for a in content.artifacts}):
        script = _module(backend, "script")
        if script is None:
            continue
        text = script.build_script({a.name: a.facts for a in content.artifacts if a.facts["backend"] == backend}, content.chosen)
        if text:
            _write(path / "build_engine.sh", text, mode=0o755)
            for file in script.DEVICE_FILES:
                _write(path / file.name, file.read_text(encoding="utf-8"))


def _module(backend: str, name: str) -> Any:
    """A module of a backend's folder; None when it has none of that name."""
    found = importlib.util.find_spec(f"{backend}.{name}")
    return importlib.import_module(f"{backend}.{name}") if found else None


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
    path.chmod(mode)
