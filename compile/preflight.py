"""What can be said of a target's backends before anything is trained: which of them are installed, and whether their options hold."""

from __future__ import annotations

from collections.abc import Sequence

from eval.session import load_backend
from pipeline.contract import Problem
from pipeline.errors import ToolchainMissing, UsageError, did_you_mean
from pipeline.target import BackendChoice, Target


def backends(target: Target, only: Sequence[str] = ()) -> Sequence[Problem]:
    """Ask every backend of the target.

    Args:
        target: the device.
        only: the backends that the stage is kept to; empty: all that the target names.

    Returns:
        A problem for each that is not installed, with the line that installs it, while another one is.

    Raises:
        ToolchainMissing: none of them is installed.
        UsageError: a name that the target does not have, or an option or a version that a backend refuses.

    """
    refuse_unknown(target, only)
    choices = [choice for choice in target.backends if not only or choice.use in only]
    absent = {choice.use: hint for choice in choices if (hint := _missing(choice, target))}
    if len(absent) == len({choice.use for choice in choices}):
        hint = next(iter(absent.values()), "name a backend in the target file")
        raise ToolchainMissing(f"target {target.name}", f"none of its backends is installed ({', '.join(absent) or 'it has none'})", hint)
    return [
        Problem(f"target {target.name}: backends.{use}", f"is not installed, so it is no candidate: {hint}") for use, hint in absent.items()
    ]


def refuse_unknown(target: Target, names: Sequence[str]) -> None:
    """Raise UsageError for a backend that the target does not name."""
    known = [b.use for b in target.backends]
    for name in names:
        if name not in known:
            where, what = "stages.compile.with.backends", f"target '{target.name}' names no backend '{name}'"
            raise UsageError(where, what, did_you_mean(name, known))


def _missing(choice: BackendChoice, target: Target) -> str:
    """The line that installs a backend, or nothing when it is there and takes its options."""
    try:
        backend = load_backend(choice.use)
    except ToolchainMissing as e:
        return e.hint
    hint = backend.missing()
    if not hint:
        backend.accept(choice, target)
    return hint
