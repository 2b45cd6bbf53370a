"""Every error that a user can cause, and its exit code.

::

    PipelineError                 two lines: "where: what is wrong" and "hint: the next step"
    ├── UsageError            2   bad YAML, unknown key, missing file, bad data, unknown target
    ├── GateFailed            3   a gate's bound is not met
    ├── GateUnproven          4   a gate has no evidence of the kind that it asks for
    ├── StageFailed           5   a stage raised; the log says where
    └── ToolchainMissing      6   a package, compiler or device that the request needs is not there

0 is success, 70 an internal bug, 130 an interruption. Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

EXIT_OK = 0
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class PipelineError(Exception):
    """Base of all errors that are shown as two lines.

    Args:
        where: file, key or object that is wrong, e.g. ``pipeline.yaml: stages.prune.with.ratio``.
        what: what is wrong with it, with the value.
        hint: the one next step.

    """

    exit_code: ClassVar[int] = EXIT_BUG

    def __init__(self, where: str, what: str, hint: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where, self.what, self.hint = where, what, hint

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\nhint: {self.hint}"

    def __reduce__(self) -> tuple[type[PipelineError], tuple[str, str, str]]:
        return type(self), (self.where, self.what, self.hint)


class UsageError(PipelineError):
    """The configuration, the command line or the data is wrong."""

    exit_code = 2


class GateFailed(PipelineError):
    """A gate's bound is not met."""

    exit_code = 3


class GateUnproven(PipelineError):
    """A gate lacks the evidence that it asks for."""

    exit_code = 4


class StageFailed(PipelineError):
    """A stage could not do its work."""

    exit_code = 5


class ToolchainMissing(PipelineError):
    """A package, compiler or device is missing; the hint is the line that installs it."""

    exit_code = 6


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of ``known``, or all of them when nothing is near."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(names)}" if names else "nothing is known by that kind of name"
