"""Videos frame by frame: through OpenCV, or through ffmpeg and pipes of raw pixels. Sound is not carried over."""

import shutil
import subprocess
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import numpy as np
from board.basics import DeviceError, answer

SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg")
_MISSING = "videos need OpenCV or ffmpeg: apt-get install python3-opencv (or: ffmpeg)"


class Video:
    """An opened video.

    width, height  of a frame in pixels
    rate           frames per second
    count          number of frames, 0 when the file does not say
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DeviceError("{} is not there".format(path))
        self.path = path
        self._cv2 = _cv2()
        if self._cv2 is not None:
            self._probe_opencv()
        elif shutil.which("ffmpeg") and shutil.which("ffprobe"):
            self._probe_ffmpeg()
        else:
            raise DeviceError(_MISSING)
        if self.width < 1 or self.height < 1:
            raise DeviceError("{} cannot be decoded as a video".format(path))

    def _probe_opencv(self) -> None:
        capture = self._cv2.VideoCapture(str(self.path))
        self._capture = capture
        names = (self._cv2.CAP_PROP_FRAME_WIDTH, self._cv2.CAP_PROP_FRAME_HEIGHT, self._cv2.CAP_PROP_FRAME_COUNT)
        self.width, self.height, self.count = (max(0, int(capture.get(n))) for n in names)
        self.rate = float(capture.get(self._cv2.CAP_PROP_FPS)) or 25.0

    def _probe_ffmpeg(self) -> None:
        fields = "stream=width,height,r_frame_rate,nb_frames"
        text = answer("ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", fields, "-of", "csv=p=0", str(self.path))
        self.width, self.height, self.rate, self.count = parse_probe(text)

    def frames(self) -> Iterator[Any]:
        """The frames as uint8 RGB [H, W, 3]."""
        return self._frames_opencv() if self._cv2 is not None else self._frames_ffmpeg()

    def _frames_opencv(self) -> Iterator[Any]:
        while True:
            good, frame = self._capture.read()
            if not good:
                self._capture.release()
                return
            yield np.ascontiguousarray(frame[:, :, ::-1])

    def _frames_ffmpeg(self) -> Iterator[Any]:
        command = ["ffmpeg", "-v", "error", "-i", str(self.path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        size = self.width * self.height * 3
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            stdout: Any = process.stdout
            for data in iter(lambda: stdout.read(size), b""):
                if len(data) < size:
                    raise DeviceError("{} ends within a frame".format(self.path))
                yield np.frombuffer(data, np.uint8).reshape(self.height, self.width, 3)


def parse_probe(text: str) -> Tuple[int, int, float, int]:
    """(width, height, frames per second, number of frames) of ffprobe's line "1280,720,30000/1001,48"; zeros when it is none."""
    parts: List[str] = text.strip().split(",")
    if len(parts) < 4 or not (parts[0].isdigit() and parts[1].isdigit()):
        return 0, 0, 25.0, 0
    over, _, under = parts[2].partition("/")
    rate = float(over) / float(under or 1) if float(under or 1) else 25.0
    return int(parts[0]), int(parts[1]), rate, int(parts[3]) if parts[3].isdigit() else 0


class VideoWriter:
    """Writes frames; use it with ``with``: the file appears when it is whole, and an earlier one stays until then.

    An odd last row or column goes: the common formats have none.
    """

    def __init__(self, path: Path, width: int, height: int, rate: float) -> None:
        self.path, self._process, self._writer, self._cv2 = path, None, None, _cv2()  # type: Tuple[Path, Optional[Any], Any, Any]
        self.part = path.with_name(path.stem + ".part" + path.suffix)
        self.width, self.height = (max(2, n // 2 * 2) for n in (width, height))
        if shutil.which("ffmpeg"):  # before OpenCV: its H.264 is smaller and plays everywhere
            source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "{}x{}".format(self.width, self.height), "-r", repr(rate), "-i", "-"]
            command = ["ffmpeg", "-v", "error", "-y", *source, "-pix_fmt", "yuv420p", str(self.part)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE)
        elif self._cv2 is not None:
            self._writer = self._cv2.VideoWriter(str(self.part), self._cv2.VideoWriter_fourcc(*"mp4v"), rate, (self.width, self.height))
            if not self._writer.isOpened():
                raise DeviceError("OpenCV cannot write {}: name the output .mp4".format(path))
        else:
            raise DeviceError(_MISSING)

    def write(self, image: Any) -> None:
        """Add a frame, uint8 RGB [H, W, 3]."""
        image = image[: self.height, : self.width]
        if self._process is None:
            self._writer.write(np.ascontiguousarray(image[:, :, ::-1]))
            return
        try:
            self._process.stdin.write(np.ascontiguousarray(image).tobytes())
        except OSError:
            raise DeviceError("ffmpeg stopped writing {}: is the disk full?".format(self.path)) from None

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        failed = kind is not None
        if self._process is None:
            self._writer.release()
        else:
            self._process.stdin.close()
            failed = self._process.wait() != 0 or failed
        if failed:
            if self.part.exists():
                self.part.unlink()
            if kind is None:
                raise DeviceError("ffmpeg could not write {}".format(self.path))
        else:
            self.part.replace(self.path)


def _cv2() -> Any:
    try:
        import cv2
    except ImportError:
        return None
    return cv2
