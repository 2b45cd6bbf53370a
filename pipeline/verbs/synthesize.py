"""``synthesize``: sharp images or footage become folders of blurred and sharp images."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import UsageError
from pipeline.machine import cores
from pipeline.verbs.dataset import SetOpt, parsed_options
from pipeline.verbs.deblur import JsonOpt, open_bars

_HELP = """Make pairs of blurred and sharp images from sharp ones, and write them as folders that 'source: folder' reads.

SHARP is a folder of photographs (camera shake and a moving object are rendered), a video, or a folder of videos (frames in a row are
averaged); with --frames, a folder of numbered frames. Photographs: the same seed gives the same bytes. Options of the blur, with
--set: blur.length, blur.rotation, blur.tremor, blur.subframes, blur.foreground, blur.read_noise, size, per_image, shrinks, split (data
reader 'sharp'); average, stride, gamma, least_motion, most_motion (data reader 'frames').

Example: python -m pipeline synthesize photos --out pairs --count 500 --seed 7 --set blur.length=[3,15]

Example: python -m pipeline synthesize clips --frames --out pairs --set average=9
"""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("synthesize", help=_HELP)(synthesize)


def synthesize(
    sharp: Annotated[Path, typer.Argument(help="folder of sharp images, a video, or a folder of frames or videos", metavar="SHARP")],
    out: Annotated[Path, typer.Option("--out", help="new folder for blur/ and sharp/", metavar="DIR")],
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="what the blur is drawn from; 0 when left out", metavar="S")] = None,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="number of pairs; one a photograph, or all there are, when left out", metavar="N")
    ] = None,
    frames: Annotated[bool, typer.Option("--frames", help="the images are frames of footage, not photographs")] = False,
    options: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Make pairs of blurred and sharp images from sharp ones."""
    writing = importlib.import_module("data.write")
    writing.refuse_existing(out)
    kind = "frames" if frames or _is_footage(sharp) else "sharp"
    if kind == "frames" and seed is not None:
        raise UsageError(f"--seed {seed}", "frames are averaged, nothing is drawn", "leave --seed out")
    given = _options(kind, count, options or [])
    source = _open(kind, sharp, given, seed or 0)
    record = {"source": kind, "options": given} | ({"seed": seed or 0} if kind == "sharp" else {})
    workers = 1 if kind == "frames" else min(8, cores())  # a video is decoded in its order
    begin = time.monotonic()
    with open_bars(as_json) as bars:
        task = bars.add_task("pairs", total=len(source))
        written = writing.write_pairs(source, out, record, workers, lambda: bars.advance(task))
    _say(written, out, time.monotonic() - begin, as_json)


def _is_footage(path: Path) -> bool:
    """Whether it is a video, or a folder that holds videos and no image; anything wrong with it is for the reader to say."""
    video, images = importlib.import_module("data.video"), importlib.import_module("data.images")
    if not path.is_dir():
        return bool(video.is_video(path))
    files = [p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return any(video.is_video(p) for p in files) and not any(p.suffix.lower() in images.IMAGE_SUFFIXES for p in files)


def _options(kind: str, count: int | None, items: list[str]) -> dict[str, Any]:
    given = parsed_options(items)
    for name, flag in (("path", "SHARP"), ("source", "--frames"), ("seed", "--seed"), ("count", "--count"), ("limit", "--count")):
        if name in given:
            raise UsageError(f"--set {name}", f"{flag} says that", f"use {flag}")
    if count is not None:
        given["limit" if kind == "frames" else "count"] = count
    return given


def _open(kind: str, path: Path, given: dict[str, Any], seed: int) -> Any:
    from pipeline.plan import load_reader
    from pipeline.yamlfile import validate

    reader = load_reader(kind, "--frames")
    config = validate(reader.config, {"path": str(path), **given}, "--set", "")
    return reader.open(config, Path.cwd(), seed)


def _say(written: Any, out: Path, seconds: float, as_json: bool) -> None:
    use = {"source": "folder", "path": str(out), "scene": "folder"}
    if as_json:
        print(json.dumps({"out": str(out), **written._asdict(), "seconds": round(seconds, 3), "use": use}, indent=1))
        return
    scenes = f"{written.scenes} scene{'s' * (written.scenes != 1)}"
    print(f"{written.pairs} pair{'s' * (written.pairs != 1)} of {scenes} in {out}, {written.bytes / 1e6:.1f} MB, {seconds:.1f} s")
    print(f"use it: {{source: folder, path: {out}, scene: folder}}")
