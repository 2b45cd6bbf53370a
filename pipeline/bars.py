"""Live progress bars on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn

from pipeline.reading import Reading


class Bars:
    """One bar for each step under way; finished ones go, and with the last of them the display.

    Args:
        title: shown before every bar.
        console: an interactive console.

    """

    def __init__(self, title: str, console: Console) -> None:
        text = TextColumn("{task.fields[title]} {task.description}", markup=False)
        detail = TextColumn("{task.fields[detail]}", style="dim", markup=False)
        self._title, self._console = title, console
        self._progress = Progress(SpinnerColumn(), text, BarColumn(24), MofNCompleteColumn(), detail, console=console, transient=True)
        self._tasks: dict[str, TaskID] = {}

    def show(self, reading: Reading, due: bool) -> None:
        """Move the bar of the reading's step."""
        del due
        if reading.finished:
            self._finish(reading.label)
            return
        if reading.label not in self._tasks:
            self._tasks[reading.label] = self._progress.add_task(reading.label, total=reading.total, title=self._title, detail="")
        detail = "  ".join(p for p in (reading.pace(), reading.scalars_text()) if p)
        self._progress.update(self._tasks[reading.label], completed=reading.done, total=reading.total, detail=detail)
        self._progress.start()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(f"{self._title} {text}", markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bars off the terminal."""
        for label in list(self._tasks):
            self._finish(label)
        self._progress.stop()

    def _finish(self, label: str) -> None:
        task = self._tasks.pop(label, None)
        if task is not None:
            self._progress.remove_task(task)
        if not self._tasks:
            self._progress.stop()
