"""Writing a bundle; ``eval.bundle`` says what is in it and reads it. The same inputs give the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import targets.device
from compile.candidates import Attempt
from compile.judge import Opening, tile_of
from compile.onnxruntime.backend import OnnxSession, onnxruntime_facts
from compile.texts import build_engine_script, readme
from eval.bundle import FACTS, MANIFEST, BundleArtifact, BundleFacts, Golden
from eval.bundle import Opening as BundleOpening
from eval.quality import to_batch, to_image
from eval.session import load_backend
from pipeline.store import hash_file

GOLDEN_DB = {"fp32": 60.0, "fp16": 45.0, "bf16": 40.0, "int8": 40.0}
"""Least PSNR of a device's output against the golden one. int8 kernels that add in another order agree to 45-58 dB of each other;
fp16 keeps 11 bits, bf16 8."""

FLOAT_PIXELS = 512 * 512
"""Golden outputs of larger images are rounded to 8 bits: a float frame of 1920x1080 is 25 MB."""


@dataclass(frozen=True, slots=True)
class Packed:
    """An artifact to pack: its candidate, its network as ONNX of free size, what runs for it here, and its role (``BundleArtifact``)."""

    attempt: Attempt
    reference: Path
    opening: Opening
    role: str


def write_bundle(path: Path, packed: Sequence[Packed], facts: Mapping[str, Any], image: NDArray[np.uint8], tile: int) -> BundleFacts:
    """Write a bundle folder; what was there before goes.

    Args:
        path: the folder.
        packed: what goes in, at least the chosen artifact and the host's.
        facts: the fields of ``BundleFacts`` that are not about artifacts.
        image: uint8 RGB [H, W, 3], the source of the golden inputs.
        tile: side in pixels of the golden input of artifacts of free size.

    """
    shutil.rmtree(path, ignore_errors=True)
    for folder in ("artifacts", "reference", "golden"):
        (path / folder).mkdir(parents=True)
    artifacts = tuple(_pack(path, item, image, tile) for item in packed)
    content = BundleFacts.model_validate({**facts, "artifacts": artifacts})
    _write(path / FACTS, json.dumps(content.model_dump(mode="json", by_alias=True), indent=1, sort_keys=True) + "\n")
    device = Path(targets.device.__file__).parent
    _write(path / "bench.py", (device / "bench.py").read_text(encoding="utf-8"), mode=0o755)
    _write(path / "runtimes.py", (device / "runtimes.py").read_text(encoding="utf-8"))
    script = build_engine_script(content)
    if script:
        _write(path / "build_engine.sh", script, mode=0o755)
    _write(path / "README.txt", readme(content))
    write_manifest(path)
    return content


def write_manifest(path: Path) -> None:
    """Write MANIFEST.sha256 over every file of the folder, in the form that ``sha256sum -c`` reads."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != MANIFEST)
    _write(path / MANIFEST, "".join(f"{hash_file(p)}  {p.relative_to(path).as_posix()}\n" for p in files))


def _pack(root: Path, item: Packed, image: NDArray[np.uint8], tile: int) -> BundleArtifact:
    plan, built = item.attempt.plan, item.attempt.built
    if built is None:
        raise ValueError(f"{plan.name} was not built")
    relative = f"artifacts/{plan.name}{built.path.suffix}"
    shutil.copyfile(built.path, root / relative)
    reference = f"reference/{item.reference.name}"
    shutil.copyfile(item.reference, root / reference)
    stand_in = BundleOpening(path=reference, facts=onnxruntime_facts(plan.precision))
    itself = BundleOpening(path=relative, facts=dict(built.facts))
    height, width = (int(built.facts[k]) or tile for k in ("height", "width"))
    return BundleArtifact(
        name=plan.name,
        backend=load_backend(plan.use).name,
        precision=plan.precision,
        runs_on=plan.runs_on,
        role=item.role,
        path=relative,
        sha256=hash_file(root / relative),
        bytes=(root / relative).stat().st_size,
        height=int(built.facts["height"]),
        width=int(built.facts["width"]),
        facts=dict(built.facts),
        float_precision=built.facts["float_precision"],
        reference=reference,
        evaluation=stand_in if item.opening.stands_in else itself,
        stands_in=item.opening.stands_in,
        golden=_golden(root, plan.name, plan.precision, root / reference, tile_of(image, height, width)),
    )


def _golden(root: Path, name: str, precision: str, reference: Path, image: NDArray[np.uint8]) -> Golden:
    height, width = image.shape[:2]
    source = f"golden/input-{width}x{height}.npy"
    batch = to_batch(image)
    np.save(root / source, np.ascontiguousarray(image.transpose(2, 0, 1)[None]))
    with OnnxSession(reference) as session:
        output = session.run(batch)
    if height * width > FLOAT_PIXELS:
        expected: NDArray[Any] = np.ascontiguousarray(to_image(output).transpose(2, 0, 1)[None])
    else:
        expected = output
    np.save(root / f"golden/{name}.npy", expected)
    return Golden(input=source, expected=f"golden/{name}.npy", psnr_at_least=GOLDEN_DB[precision])


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
    path.chmod(mode)
