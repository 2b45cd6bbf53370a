"""Running one program of this machine (ssh, adb, sh) with a deadline, feeding it a file from an offset."""

from __future__ import annotations

import select
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended: status (-1: stopped at the deadline), standard output, standard error as text."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.out.decode("utf-8", "replace")


def run(command: Sequence[str], timeout: float, source: Path | None = None, offset: int = 0, until: bytes = b"") -> Done:
    """Run a program to its end, or until it says a word.

    Args:
        command: program and arguments, none of which a shell sees.
        timeout: seconds after which it is killed.
        source: file whose content from ``offset`` on is its standard input; empty input when left out.
        offset: bytes to leave out.
        until: a whole line of its output after which it has done what it is for, and is not waited for.

    Raises:
        FileNotFoundError: there is no such program.

    """
    # a file for standard error: a program in the background that inherits it must not keep us waiting for the end of a pipe
    with tempfile.TemporaryFile() as errors, _input(source, offset) as data:
        process = subprocess.Popen(command, stdin=data, stdout=subprocess.PIPE, stderr=errors)
        try:
            if until and process.stdout is not None and _says(process.stdout, until, timeout):
                return Done(0, until, "")
            out, _ = process.communicate(timeout=timeout)
            code = process.returncode
        except subprocess.TimeoutExpired:
            code, out = -1, b""
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        errors.seek(0)
        return Done(code, out, errors.read().decode("utf-8", "replace").strip())


def _says(output: IO[bytes], word: bytes, timeout: float) -> bool:
    """Whether the first line of a pipe comes in time and is that word."""
    ready, _, _ = select.select([output], [], [], timeout)
    return bool(ready) and output.readline().strip() == word


def _input(source: Path | None, offset: int) -> IO[bytes]:
    if source is None:
        return Path("/dev/null").open("rb")
    file = source.open("rb", buffering=0)
    file.seek(offset)  # the child shares the descriptor and with it the position
    return file
