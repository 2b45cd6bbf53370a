"""``deblur``: restore the user's own images, folders and videos."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import UsageError
from pipeline.runs import with_bundle

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

ModelArg = Annotated[
    Path,
    typer.Argument(
        help="a checkpoint (.safetensors), published weights (.pth, .pkl, ...), a bundle, or a run that made one: its folder, its name, "
        "or 'latest'",
        metavar="MODEL",
    ),
]
RunsOpt = Annotated[Path, typer.Option("--workspace", help="where runs are looked up by name", metavar="DIR")]
TileOpt = Annotated[
    int, typer.Option("--tile", min=0, help="side of the tiles in pixels; 0: whole images up to full HD", show_default=True)
]
ThreadsOpt = Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0: all cores", show_default=True)]
JsonOpt = Annotated[bool, typer.Option("--json", help="print JSON instead of text")]

_HELP = """Restore blurred images, folders of images (with their subfolders) and videos, of any size. Inputs are never changed.

Grey, 16-bit and transparent pictures keep their layout and depth; a video becomes an MP4 without sound.

Example: python -m pipeline deblur latest holiday/ --out restored

Example: python -m pipeline deblur NAFNet-GoPro-width32.pth holiday/ --out restored
"""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("deblur", help=_HELP)(deblur)


def deblur(
    model: ModelArg,
    inputs: Annotated[list[Path], typer.Argument(help="images, folders and videos", metavar="INPUT...")],
    out: Annotated[Path, typer.Option("--out", help="folder for the results; made when it does not exist", metavar="DIR")],
    tile: TileOpt = 0,
    threads: ThreadsOpt = 0,
    force: Annotated[bool, typer.Option("--force", help="replace results that exist already")] = False,
    workspace: RunsOpt = Path(".pipeline"),
    as_json: JsonOpt = False,
) -> None:
    """Restore blurred images, folders of images and videos."""
    model = with_bundle(model, workspace.resolve(), model=True)
    jobs = importlib.import_module("eval.jobs").find_jobs(inputs, out, force)
    with importlib.import_module("eval.restorers").open_restorer(model, tile=tile, threads=threads) as restorer, open_bars(as_json) as bars:
        rows = _restore_all(jobs, restorer, bars, not as_json)
        described = restorer.describe()
    failed = [row for row in rows if row["error"]]
    if as_json:
        print(json.dumps({"model": described, "out": str(out), "results": rows}, indent=1))
    else:
        _say(rows, out)
    if failed:
        _refuse(failed, rows, out)


def open_bars(silent: bool) -> Progress:
    """Progress bars on standard error, where there is a terminal to show them."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(30), MofNCompleteColumn(), TimeRemainingColumn(compact=True)
    return Progress(*columns, console=console, transient=True, disable=silent or not console.is_terminal)


def _restore_all(jobs: Sequence[Any], restorer: Any, bars: Progress, tell_cuts: bool) -> list[dict[str, Any]]:
    """Every job in turn; one that cannot be read is noted and the others still done."""
    rows = []
    restore = _telling(restorer) if tell_cuts else restorer
    overall = bars.add_task("files", total=len(jobs))
    for job in jobs:
        begin = time.perf_counter()
        row: dict[str, Any] = {"input": str(job.source), "output": str(job.out), "error": ""}
        step = bars.add_task(job.source.name, total=None)
        try:
            row |= _restore(job, restore, partial(_move, bars, step))
        except UsageError as e:
            row |= {"output": None, "error": f"{e.where}: {e.what}"}
            print(f"warning: {e.where}: {e.what}", file=sys.stderr)
        rows.append(row | {"seconds": round(time.perf_counter() - begin, 3)})
        bars.remove_task(step)
        bars.advance(overall)
    return rows


def _telling(restorer: Any) -> Callable[..., Any]:
    """The restorer; says before the first image of each size that is cut why it is, and how."""
    told = {""}

    def restore(image: Any, on_tile: Callable[[int, int], None] | None = None) -> Any:
        line = restorer.cutting(*image.shape[:2])
        if line not in told:
            told.add(line)
            print(f"note: {line}")
        return restorer(image, on_tile)

    return restore


def _move(bars: Progress, step: TaskID, done: int, total: int) -> None:
    bars.update(step, completed=done, total=total or None)


def _restore(job: Any, restorer: Any, tell: Callable[[int, int], None]) -> dict[str, Any]:
    if job.is_video:
        return {"frames": importlib.import_module("eval.video").restore_video(job.source, job.out, restorer, tell)}
    pictures = importlib.import_module("eval.pictures")
    picture = pictures.read_picture(job.source)
    pictures.write_picture(job.out, picture.restored(lambda image: restorer(image, tell)))
    height, width = picture.size
    return {"width": width, "height": height}


def _say(rows: Sequence[dict[str, Any]], out: Path) -> None:
    done = [row for row in rows if not row["error"]]
    for row in done:
        size = f"{row['frames']} frames" if "frames" in row else f"{row['width']}x{row['height']}"
        print(f"{row['output']}  {size}  {row['seconds']:.2f} s")
    print(f"restored {len(done)} of {len(rows)} into {out} in {sum(row['seconds'] for row in rows):.1f} s")


def _refuse(failed: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], out: Path) -> None:
    names = ", ".join(Path(row["input"]).name for row in failed[:3]) + (", ..." if len(failed) > 3 else "")
    done = len(rows) - len(failed)
    what = f"{len(failed)} of {len(rows)} inputs could not be restored: {names}"
    raise UsageError("deblur", what, f"the warnings above say why; the other {done} are in {out}" if done else "the warnings above say why")
