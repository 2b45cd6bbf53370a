"""What a transport is, and what it is asked to do."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.errors import UsageError

MANIFEST = "MANIFEST.sha256"
RESULT = "result.json"

Identity = Mapping[str, str]
"""What a board says it is: model, l4t, android, machine, cpu, hostname, ... ; what it does not know is left out."""


class DroppedError(Exception):
    """The way to the board was lost; its text says how. The same step may be tried again."""


@dataclass(frozen=True, slots=True)
class BundleFile:
    """One file to send: its path relative to the bundle, its hash (64 hex digits), its size in bytes, whether it is a program."""

    name: str
    sha256: str
    size: int
    program: bool


@dataclass(frozen=True, slots=True)
class Job:
    """A benchmark to carry out.

    bundle   folder with a verified manifest
    files    everything that goes to the board, the manifest included
    sha256   hash of the manifest, which names the bundle
    artifact name of the artifact to measure
    facts    its entry in bundle.json
    steps    commands on the board, relative to the bundle's folder there; "python" stands for the board's interpreter
    limit_s  seconds after which each step is stopped
    wait_s   seconds to wait in line for the board
    seconds  least time to measure
    keep     leave the bundle on the board
    fetch    files that come back, the result first; the rest only where the board wrote them
    check    called with the board's identity before anything is sent; raises when it is the wrong board
    named    the artifact was asked for by its name: no other may take its place
    log      the file here in which the log of a job that failed will be found, for the hints of errors
    """

    bundle: Path
    files: tuple[BundleFile, ...]
    sha256: str
    artifact: str
    facts: Mapping[str, Any]
    steps: tuple[tuple[str, ...], ...]
    limit_s: float
    wait_s: float
    seconds: float
    keep: bool
    fetch: tuple[str, ...]
    check: Callable[[Identity], None]
    named: bool = False
    log: str = "its log"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came back: name -> content, and who the board said it was."""

    files: Mapping[str, bytes]
    identity: Identity


class Transport(ABC):
    """A way to a board: connect, identify, put, verify, run, fetch, clean.

    scheme         what names it before the colon
    form           how it is written, for help texts
    function_only  True where what runs is not the board: its timings prove nothing about it

    Args:
        rest: what follows the scheme.
        say: called with each line meant for the user.

    """

    scheme: ClassVar[str]
    form: ClassVar[str]
    function_only: ClassVar[bool] = False

    def __init__(self, rest: str, say: Callable[[str], None]) -> None:
        self.rest, self.say = rest, say

    @property
    def name(self) -> str:
        """What the user calls the board."""
        return f"{self.scheme}:{self.rest}" if self.rest else self.scheme

    @classmethod
    def around(cls) -> list[str]:
        """Boards that are there without being named, as ``--on`` takes them; nothing is started to find them."""
        return []

    @abstractmethod
    def look(self) -> Identity:
        """What the board says it is; it is asked, and nothing is left there.

        Raises:
            ToolchainMissing: it cannot be reached, or lacks what a benchmark needs.

        """

    @abstractmethod
    def bench(self, job: Job, salvage: Callable[[Mapping[str, bytes]], None]) -> Fetched:
        """Carry out a job, leave the board clean, and return what it wrote.

        Args:
            job: what to do.
            salvage: called with what could be fetched of a job that failed (its log, a partial result), before the error is raised.

        Raises:
            ToolchainMissing: the board, or something that it needs, is missing or cannot be reached.
            StageFailed: a step failed there.

        """


def bundle_files(bundle: Path) -> tuple[BundleFile, ...]:
    """Everything that a bundle's manifest lists, smallest first and the manifest last.

    Raises:
        UsageError: no readable manifest, or a line that is none.

    """
    path = bundle / MANIFEST
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UsageError(str(bundle), f"is not a bundle: it has no readable {MANIFEST}", "give the folder that compile made") from None
    listed = [_file(bundle, *line.partition("  ")[::2]) for line in lines]
    return (*sorted(listed, key=lambda f: (f.size, f.name)), _file(bundle, manifest_sha256(bundle), MANIFEST))


def manifest_sha256(bundle: Path) -> str:
    """Hash of a bundle's manifest, 64 hex digits: the bundle's name."""
    return hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()


def _file(bundle: Path, sha256: str, name: str) -> BundleFile:
    try:
        found = (bundle / name).stat()
    except OSError:
        raise UsageError(str(bundle), f"'{name}' is missing", "copy the bundle again, or run compile again") from None
    return BundleFile(name, sha256, found.st_size, bool(found.st_mode & 0o100))
