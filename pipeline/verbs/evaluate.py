"""``evaluate``: the quality of a checkpoint or a bundle on a data set."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.contract import PairSource
from pipeline.errors import UsageError, did_you_mean
from pipeline.runs import with_bundle
from pipeline.verbs.deblur import JsonOpt, ModelArg, RunsOpt, ThreadsOpt, TileOpt, open_bars

_SSIM = ("2d", "official-3d")

_HELP = """Measure PSNR and SSIM of a checkpoint or a bundle on pairs of blurred and sharp images.

Example: python -m pipeline evaluate latest --data my/pairs

Example: python -m pipeline evaluate model.safetensors --pipeline pipeline.yaml --role test --json
"""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("evaluate", help=_HELP)(evaluate)


def evaluate(
    model: ModelArg,
    data: Annotated[Path | None, typer.Option("--data", help="folder with blur/ and sharp/", metavar="DIR")] = None,
    pipeline: Annotated[Path | None, typer.Option("--pipeline", help="take the data from this pipeline file", metavar="PIPELINE")] = None,
    role: Annotated[str, typer.Option("--role", help="which of the pipeline's data sets")] = "test",
    worst: Annotated[int, typer.Option("--worst", min=0, help="how many of the worst images to list")] = 5,
    ssim: Annotated[str, typer.Option("--ssim", help="2d, or official-3d as in NAFNet's published tables")] = "2d",
    samples: Annotated[Path | None, typer.Option("--save", help="write the restored images into this folder", metavar="DIR")] = None,
    tile: TileOpt = 0,
    threads: ThreadsOpt = 0,
    workspace: RunsOpt = Path(".pipeline"),
    as_json: JsonOpt = False,
) -> None:
    """Measure PSNR and SSIM on pairs of blurred and sharp images."""
    if ssim not in _SSIM:
        raise UsageError("--ssim", f"unknown variant '{ssim}'", did_you_mean(ssim, _SSIM))
    model = with_bundle(model, workspace.resolve(), model=True)
    source = _open_source(data, pipeline, role)
    quality = importlib.import_module("eval.quality")
    with (
        importlib.import_module("eval.restorers").open_restorer(model, tile=tile, threads=threads, faithful=True) as restorer,
        open_bars(as_json) as bars,
    ):
        step = bars.add_task("images", total=len(source))
        result = quality.evaluate(_counted(restorer, lambda: bars.advance(step)), source, samples, ssim)
        described = restorer.describe()
    if as_json:
        print(json.dumps(to_json(result, described), indent=1))
    else:
        _show(result, described, worst)


def to_json(result: Any, described: dict[str, Any]) -> dict[str, Any]:
    """The result as a program reads it: the model, the measurements as in report.json, and one entry per image."""
    from pipeline.serial import measurement_to_json

    images = zip(result.names, result.psnr, result.ssim, result.psnr_input, strict=True)
    return {
        "model": described,
        "measurements": [measurement_to_json(m) for m in result.measurements()],
        "images": [{"name": n, "psnr": p, "ssim": s, "psnr_gain": p - q} for n, p, s, q in images],
    }


def _open_source(data: Path | None, pipeline: Path | None, role: str) -> PairSource:
    if (data is None) == (pipeline is None):
        raise UsageError("evaluate", "needs either --data or --pipeline", "say --data DIR, or --pipeline pipeline.yaml --role test")
    if data is not None:
        reader = importlib.import_module("data.readers.folder").READER
        opened: PairSource = reader.open(reader.config(path=data), Path.cwd(), 0)
        return opened
    return _open_role(pipeline or Path(), role)


def _open_role(path: Path, role: str) -> PairSource:
    from pipeline.config import load_pipeline
    from pipeline.plan import load_reader
    from pipeline.yamlfile import validate

    file = load_pipeline(path)
    if role not in file.data:
        raise UsageError(f"--role {role}", f"{path.name} has no such data set", did_you_mean(role, file.data))
    options = dict(file.data[role])
    reader = load_reader(options.pop("source", None), f"{path.name}: data.{role}.source")
    return reader.open(validate(reader.config, options, path.name, f"data.{role}"), path.resolve().parent, file.seed)


def _counted(restore: Callable[[Any], Any], tick: Callable[[], None]) -> Callable[[Any], Any]:
    def run(image: Any) -> Any:
        out = restore(image)
        tick()
        return out

    return run


def _show(result: Any, described: dict[str, Any], worst: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pipeline.report.numbers import label, number

    console = Console()
    facts = ", ".join(str(described[k]) for k in ("kind", "arch", "backend", "precision") if described.get(k))
    console.print(Text(f"{described['name']} ({facts}) on {len(result.names)} images, measured on this host"), soft_wrap=True)
    for m in result.measurements():
        if m.name == "psnr_worst5" and len(result.names) <= 5:  # the mean once more
            continue
        variant = f" ({m.conditions['variant']})" if "variant" in m.conditions else ""
        console.print(Text(f"  {label(m.name)}{variant}: {number(m.value, m.unit, metric=m.name, signed=m.name == 'psnr_gain').text}"))
    table = Table("worst images", box=None, pad_edge=False)
    for name in ("PSNR", "SSIM", "gain"):
        table.add_column(name, justify="right")
    rows = sorted(zip(result.psnr, result.names, result.ssim, result.psnr_input, strict=True))[:worst]
    for p, name, s, q in rows:
        cells = (number(p, "dB"), number(s, metric="ssim"), number(p - q, "dB", signed=True))
        table.add_row(Text(name), *(c.text for c in cells))
    if rows:
        console.print(table)
