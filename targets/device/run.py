#!/usr/bin/env python3
"""Restore images or a video with the network in this folder.

python3 run.py --verify             prove that this board computes what it should: PASS or FAIL, exit 0 or 1
python3 run.py photo.png out.png    one image (PNG and PPM always; JPEG and others with OpenCV, Pillow or ffmpeg)
python3 run.py photos/ out/         every image of a folder
python3 run.py clip.mp4 out.mp4     a video (with OpenCV or ffmpeg)

Needs Python 3.6 or later, numpy and the artifact's runtime; any image size, tiled where the artifact has a fixed one.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, List, Tuple

from board import images, video
from board.basics import DeviceError
from board.opened import Opened, add_arguments, verify_only
from board.tiles import Restorer


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="?", type=Path, help="an image, a folder of images, or a video")
    parser.add_argument("output", nargs="?", type=Path, help="a file, or a folder")
    add_arguments(parser)
    args = parser.parse_args()
    if not args.verify and args.output is None:
        parser.error("give INPUT and OUTPUT, or --verify")
    return args


class Progress:
    """One line on a terminal that is written over; elsewhere a line per finished item."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.start, self.tty = total, 0, time.monotonic(), sys.stderr.isatty()

    def tile(self, name: str) -> Any:
        """A function to call after each tile of an item."""

        def told(done: int, total: int) -> None:
            if self.tty:
                sys.stderr.write(f"\r{name}: {self.done + 1} of {self.total or '?'}, tile {done} of {total}, {self._seconds():.1f} s ")
                sys.stderr.flush()

        return told

    def finished(self, name: str) -> None:
        """Count an item."""
        self.done += 1
        if not self.tty:
            sys.stderr.write(f"{name}: {self.done} of {self.total or '?'}, {self._seconds():.1f} s\n")

    def end(self) -> None:
        """Finish the line."""
        if self.tty:
            sys.stderr.write("\n")

    def _seconds(self) -> float:
        return time.monotonic() - self.start


def jobs(source: Path, output: Path) -> List[Tuple[Path, Path]]:
    """(input, output) of the images that a command names."""
    if source.is_dir():
        found = sorted(p for p in source.iterdir() if p.suffix.lower() in images.SUFFIXES)
        if not found:
            raise DeviceError(f"{source} has no images ({', '.join(images.SUFFIXES)})")
        output.mkdir(parents=True, exist_ok=True)
        return [(p, output / p.with_suffix(writable(p.suffix)).name) for p in found]
    if not source.exists():
        raise DeviceError(f"{source} is not there")
    return [(source, output / source.with_suffix(writable(source.suffix)).name if output.is_dir() else output)]


def writable(suffix: str) -> str:
    """The suffix of an output in a folder: the input's where this board writes it without loss, else .png."""
    return suffix if suffix.lower() in (".png", ".ppm") else ".png"


def restore_images(restorer: Restorer, found: List[Tuple[Path, Path]]) -> None:
    """Restore files one after the other."""
    progress = Progress(len(found))
    for source, output in found:
        images.write_image(output, restorer(images.read_image(source), progress.tile(source.name)))
        progress.finished(source.name)
    progress.end()


def restore_video(restorer: Restorer, source: Path, output: Path) -> None:
    """Restore a video frame by frame; sound is not carried over."""
    opened = video.Video(source)
    progress = Progress(opened.count)
    output = output / source.with_suffix(".mp4").name if output.is_dir() else output
    with video.VideoWriter(output, opened.width, opened.height, opened.rate) as writer:
        for frame in opened.frames():
            writer.write(restorer(frame, progress.tile(source.name)))
            progress.finished(source.name)
    progress.end()
    sys.stderr.write(f"{output}: {progress.done} frames, without sound\n")


def work(args: argparse.Namespace) -> int:
    """Do what the command line asks for; returns the exit status."""
    if args.verify:
        return verify_only(args)
    found = [] if args.input.suffix.lower() in video.SUFFIXES else jobs(args.input, args.output)
    opened = Opened(args)
    restorer = Restorer(opened.runtime.run, opened.artifact, opened.bundle["network"]["size_multiple"])
    try:
        if found:
            restore_images(restorer, found)
        else:
            restore_video(restorer, args.input, args.output)
    finally:
        opened.runtime.close()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(work(parse()))
    except DeviceError as e:
        sys.stderr.write(f"error: {e}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
