"""How a running stage talks: a live bar on a terminal, an occasional line elsewhere, and always a log file and events."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

from pipeline.reading import Meter, Reading

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY = 10.0
"""Seconds between two lines about one long step, on a dumb terminal and in the log."""

EVENT_EVERY = 2.0
"""Seconds between two progress events of one long step."""


class Display(Protocol):
    """What a reading is shown on."""

    def show(self, reading: Reading, due: bool) -> None:
        """Show a reading; ``due`` says whether enough time has passed for a line."""

    def say(self, text: str) -> None:
        """Show one line."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class StageProgress:
    """``contract.Progress`` of one stage. Closing it (or leaving ``with``) takes the bar off the terminal; opening another does too.

    Args:
        title: shown before every line, e.g. ``[2/6] distill``.
        log: file that all lines are appended to, with the time.
        event: called as ``event("progress", stage=..., label=..., done=..., total=..., scalars=...)``.
        quiet: nothing on the terminal; log and events stay.
        verbose: lines given to ``log`` also appear on the terminal.
        console: where to show; standard output by default.
        clock: monotonic seconds.

    """

    _open: ClassVar[weakref.ref[StageProgress] | None] = None

    def __init__(
        self,
        title: str,
        log: Path,
        event: Callable[..., None],
        *,
        quiet: bool = False,
        verbose: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        previous = StageProgress._open() if StageProgress._open is not None else None
        if previous is not None:
            previous.close()
        StageProgress._open = weakref.ref(self)
        self.title, self._log, self._event, self._verbose, self._clock = title, log, event, verbose, clock
        self._meters: dict[str, Meter] = {}
        self._display = open_display(title, console, quiet)
        # a stage that died leaves nobody to close it; the cursor must come back all the same
        weakref.finalize(self, self._display.close)

    def log(self, text: str) -> None:
        """Append to the log file, each line with the time; on the terminal when verbose."""
        self._write(text)
        if self._verbose:
            self._display.say(text)

    def update(self, label: str, done: int, total: int, **scalars: float) -> None:
        """Show progress; the log and the events take a reading every few seconds, and the last one."""
        now = self._clock()
        meter = self._meters.setdefault(label, Meter(printed=now, sent=-math.inf))
        reading = meter.read(now, label, done, total, scalars)
        due = now - meter.printed >= LINE_EVERY
        self._display.show(reading, due)
        if due or reading.finished:
            self._write(reading.line())
            meter.printed = now
        if now - meter.sent >= EVENT_EVERY or reading.finished:
            self._send(reading)
            meter.sent = now
        if reading.finished:
            del self._meters[label]

    def close(self) -> None:
        """Take the display off the terminal; may be called twice."""
        self._display.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _write(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with self._log.open("a", encoding="utf-8") as f:
            f.writelines(f"{stamp} {line}\n" for line in text.splitlines() or [""])

    def _send(self, reading: Reading) -> None:
        scalars = {k: float(v) if math.isfinite(v) else str(float(v)) for k, v in reading.scalars.items()}
        self._event("progress", stage=self.title, label=reading.label, done=reading.done, total=reading.total, scalars=scalars)


def open_display(title: str, console: Console | None, quiet: bool) -> Display:
    """The display that fits: none when quiet, a live bar on a terminal, lines elsewhere."""
    if quiet:
        return Silence()
    from rich.console import Console

    from pipeline.bars import Bars

    console = console or Console()
    return Bars(title, console) if console.is_terminal else Lines(title, console)


class Silence:
    """Shows nothing."""

    def show(self, reading: Reading, due: bool) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Lines:
    """One plain line when it is due."""

    def __init__(self, title: str, console: Console) -> None:
        self._title, self._console = title, console

    def show(self, reading: Reading, due: bool) -> None:
        """Print the reading when it is due."""
        if due:
            self.say(reading.line())

    def say(self, text: str) -> None:
        """Print ``text`` after the title, unwrapped."""
        self._console.print(f"{self._title} {text}", markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing to undo."""
