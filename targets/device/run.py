#!/usr/bin/env python3
"""Restore images or a video with the network in this folder.

python3 run.py --verify             prove that this board computes what it should: PASS or FAIL, exit 0 or 1
python3 run.py photo.png out.png    one image (PNG and PPM always; JPEG and others with OpenCV, Pillow or ffmpeg)
python3 run.py photos/ out/         every image and video of a folder
python3 run.py clip.mp4 out.mp4     a video (with OpenCV or ffmpeg)

Needs Python 3.6 or later, numpy and the artifact's runtime; any image size, tiled where the artifact has a fixed one.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

try:
    from board import images, video
    from board.basics import DeviceError
    from board.opened import Opened, add_arguments, verify_only
    from board.tiles import Restorer
except ImportError as e:
    sys.stderr.write("error: this folder is not whole ({}): copy the bundle again\n".format(e))
    sys.exit(2)


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
    """(input, output) of the images and videos that a command names; makes the folder of the outputs, and replaces no input."""
    if source.is_dir():
        found = in_folder(source, output)
    elif not source.exists():
        raise DeviceError(f"{source} is not there")
    else:
        found = [(source, output / result_name(source) if output.is_dir() or not output.suffix else output)]
    inputs = {path.resolve() for path, _ in found}
    replaced = [str(out) for _, out in found if out.resolve() in inputs]
    if replaced:
        raise DeviceError(f"{replaced[0]} is an input, and inputs are never replaced: name another output")
    for suffix in {out.suffix.lower() for path, out in found if not is_video(path)}:
        images.check_writable(suffix)
    try:
        found[0][1].parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise DeviceError(f"{found[0][1].parent} cannot be made ({e.strerror}): name another output") from None
    return found


def in_folder(source: Path, output: Path) -> List[Tuple[Path, Path]]:
    """(input, output) of the images and videos of a folder; of two that would have one output, one keeps its ending in front."""
    found = sorted(p for p in source.iterdir() if p.is_file() and p.suffix.lower() in images.SUFFIXES + video.SUFFIXES)
    if not found:
        raise DeviceError(f"{source} has neither images ({', '.join(images.SUFFIXES)}) nor videos ({', '.join(video.SUFFIXES)})")
    taken: Dict[str, Path] = {}
    for path in sorted(found, key=lambda p: result_name(p) != p.name):  # those that keep their names first
        name, longer = result_name(path), path.name
        while name in taken:
            name = longer = longer + Path(name).suffix
        taken[name] = path
    return sorted((path, output / name) for name, path in taken.items())


def is_video(path: Path) -> bool:
    """Whether a file's name is a video's."""
    return path.suffix.lower() in video.SUFFIXES


def result_name(source: Path) -> str:
    """The name of an output in a folder: the input's where this board writes its form without loss, else it ends in .png or .mp4."""
    keeps = source.suffix.lower() in (".png", ".ppm", ".mp4")
    return source.name if keeps else source.with_suffix(".mp4" if is_video(source) else ".png").name


def restore_all(restorer: Restorer, found: List[Tuple[Path, Path]]) -> int:
    """Restore one file after the other; returns how many of several could not be read, which are said and passed over."""
    progress, unread = Progress(len(found)), 0
    for source, output in found:
        try:
            opened = video.Video(source) if is_video(source) else images.read_image(source)
        except DeviceError as e:
            if len(found) == 1:
                raise
            sys.stderr.write(f"error: {e}\n")
            unread += 1
            continue
        if is_video(source):
            restore_video(restorer, opened, output)
        else:
            images.write_image(output, restorer(opened, progress.tile(source.name)))
        progress.finished(source.name)
    progress.end()
    return unread


def restore_video(restorer: Restorer, opened: video.Video, output: Path) -> None:
    """Restore a video frame by frame; sound is not carried over."""
    progress, name = Progress(opened.count), opened.path.name
    with video.VideoWriter(output, opened.width, opened.height, opened.rate) as writer:
        for frame in opened.frames():
            writer.write(restorer(frame, progress.tile(name)))
            progress.finished(name)
        if not progress.done:
            raise DeviceError(f"{opened.path} holds no frame that can be read")
    progress.end()
    sys.stderr.write(f"{output}: {progress.done} frames, without sound\n")


def work(args: argparse.Namespace) -> int:
    """Do what the command line asks for; returns the exit status."""
    if args.verify:
        return verify_only(args)
    found = jobs(args.input, args.output)
    opened = Opened(args)
    restorer = Restorer(opened.runtime.run, opened.artifact, opened.bundle["network"]["size_multiple"])
    try:
        unread = restore_all(restorer, found)
    finally:
        opened.runtime.close()
    if unread:
        raise DeviceError(f"{unread} of {len(found)} could not be read; the others are in {found[0][1].parent}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(work(parse()))
    except DeviceError as e:
        sys.stderr.write(f"error: {e}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
