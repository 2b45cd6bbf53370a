"""The windows of the test images where the final result is worst, after every stage."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIDE = 128
ROWS = 3
LIMIT = 32
"""Images decoded to find the worst ones: a report takes less than a second."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture of a row; ``decibel`` is the PSNR of this window, None for the sharp original; ``uri`` is "" when it is missing."""

    caption: str
    uri: str
    decibel: float | None = None


@dataclass(frozen=True, slots=True)
class CropRow:
    """The same window of one test image, from blurred to sharp. ``image_db``: PSNR of the whole image after the last stage."""

    name: str
    x: int
    y: int
    width: int
    height: int
    image_db: float
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class Crops:
    """The rows, worst first; ``looked_at`` of ``total`` test images were compared to find them. ``missing`` says why there are none."""

    rows: tuple[CropRow, ...] = ()
    after: str = ""
    looked_at: int = 0
    total: int = 0
    missing: str = ""


def worst_crops(report: Mapping[str, Any], run_dir: Path, rows: int = ROWS, side: int = SIDE) -> Crops:
    """Find and cut the worst windows.

    Args:
        report: parsed report.json; stages' outputs of kind ``samples`` are folders with one PNG per test pair.
        run_dir: the run's folder, with ``samples/blurred`` and ``samples/sharp``.
        rows: how many images.
        side: side of the window in pixels; less where the image is smaller.

    """
    folders = _sample_folders(report, run_dir)
    sharp, blurred = run_dir / "samples" / "sharp", run_dir / "samples" / "blurred"
    if not folders or not sharp.is_dir():
        return Crops(missing="No stage of this run left restored test images.")
    after, last = next(reversed(folders.items()))
    names = sorted(p.relative_to(last).as_posix() for p in last.rglob("*.png") if (sharp / p.relative_to(last)).is_file())
    chosen = _shortlist(names, _values(report, after))
    with ThreadPoolExecutor() as pool:
        errors = dict(zip(chosen, pool.map(lambda n: _image_db(last / n, sharp / n), chosen), strict=True))
    worst = sorted((db, n) for n, db in errors.items() if db is not None)[:rows]
    sources = {"blurred": blurred, **folders}
    cut = tuple(row for db, name in worst if (row := _row(name, db, sources, last, sharp, side)) is not None)
    return Crops(cut, after, len(chosen), len(names), "" if cut else "The restored test images of this run cannot be read any more.")


def _sample_folders(report: Mapping[str, Any], run_dir: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for stage in report.get("stages", ()):
        outputs = (o for o in (stage.get("outputs") or {}).values() if o.get("kind") == "samples")
        folder = next((p for o in outputs if (p := _resolve(o, run_dir)) is not None), None)
        if folder is not None:
            found[str(stage["id"])] = folder
    return found


def _resolve(output: Mapping[str, Any], run_dir: Path) -> Path | None:
    """Where an output lies: its path (absolute, or relative to the run or the workspace), or its hash in the workspace's store."""
    workspace = run_dir.resolve().parent.parent
    sha = str(output.get("sha256") or "")
    places = [base / str(output["path"]) for base in (run_dir, workspace) if output.get("path")]
    places += [workspace / "store" / "objects" / sha[:2] / sha] * bool(sha)
    return next((p for p in places if p.is_dir()), None)


def _values(report: Mapping[str, Any], stage_id: str) -> list[float]:
    stage = next(s for s in report["stages"] if s["id"] == stage_id)
    return next((list(m.get("values") or ()) for m in stage.get("measurements", ()) if m.get("name") == "psnr"), [])


def _shortlist(names: list[str], values: list[float]) -> list[str]:
    """All names when they are few; else those with the lowest figures, if there is one for each, else an even spread."""
    if len(names) <= LIMIT:
        return names
    if len(values) == len(names) and all(isinstance(v, int | float) for v in values):
        return [name for _, name in sorted(zip(values, names, strict=True))[:LIMIT]]
    return [names[i * len(names) // LIMIT] for i in range(LIMIT)]


def _image_db(path: Path, reference: Path) -> float | None:
    a, b = _read(path), _read(reference)
    return None if a is None or b is None or a.shape != b.shape else _psnr(a, b)


def _row(name: str, image_db: float, sources: Mapping[str, Path], last: Path, sharp: Path, side: int) -> CropRow | None:
    gt, final = _read(sharp / name), _read(last / name)
    if gt is None or final is None:
        return None
    y, x, h, w = _worst_window(final, gt, side)
    window = (slice(y, y + h), slice(x, x + w))
    tiles = [_tile(caption, _read(folder / name), gt, window) for caption, folder in sources.items()]
    return CropRow(name.removesuffix(".png"), x, y, w, h, image_db, (*tiles, Tile("sharp", _uri(gt[window]))))


def _tile(caption: str, image: NDArray[np.uint8] | None, gt: NDArray[np.uint8], window: tuple[slice, slice]) -> Tile:
    if image is None or image.shape != gt.shape:
        return Tile(caption, "")
    return Tile(caption, _uri(image[window]), _psnr(image[window], gt[window]))


def _worst_window(image: NDArray[np.uint8], gt: NDArray[np.uint8], side: int) -> tuple[int, int, int, int]:
    """(y, x, height, width) of the window with the greatest squared error, by a summed-area table (Crow, SIGGRAPH 1984)."""
    import numpy as np

    error = np.square(image.astype(np.float64) - gt).sum(axis=2)
    h, w = min(side, error.shape[0]), min(side, error.shape[1])
    table = np.pad(error.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = table[h:, w:] - table[:-h, w:] - table[h:, :-w] + table[:-h, :-w]
    y, x = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return int(y), int(x), h, w


def _psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    import numpy as np

    mse = float(np.mean(np.square(a.astype(np.float32) - b)))
    return float("inf") if mse == 0 else float(10 * np.log10(255.0**2 / mse))


def _read(path: Path) -> NDArray[np.uint8] | None:
    """BGR uint8 [H, W, 3], or None when there is no such picture."""
    import cv2
    import numpy as np

    content = np.fromfile(path, np.uint8) if path.is_file() else np.empty(0, np.uint8)
    if not content.size:
        return None
    image = cv2.imdecode(content, cv2.IMREAD_COLOR)
    return None if image is None else image.astype(np.uint8, copy=False)


def _uri(image: NDArray[np.uint8]) -> str:
    import cv2

    _, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    return f"data:image/png;base64,{base64.b64encode(data.tobytes()).decode()}"
