"""The boards that can be reached from here, and which targets they are. They are asked what they are; nothing else is done there."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.ingest.identity import described, unlike
from pipeline.target import Target


@dataclass(frozen=True, slots=True)
class Device:
    """One board that was asked.

    where    as ``--on`` takes it
    words    what it says it is, in a few words
    targets  names of the targets that it is
    judged   whether it can be told from that which target it is: not where the CPU is emulated, or the board says only its name
    lacks    what of Python and numpy it has not
    error    why it cannot be reached or used, with the next step
    """

    where: str
    words: str = ""
    targets: tuple[str, ...] = ()
    judged: bool = False
    lacks: str = ""
    error: PipelineError | None = None

    def told(self) -> str:
        """The board in one line."""
        which = f", target {', '.join(self.targets)}" if self.targets else ", none of the targets" if self.judged else ""
        known = f"{self.words}{which}"
        return f"{known}; it has no {' and no '.join(self.lacks.split())}" if self.lacks else known


def reachable(targets: Sequence[Target], asked: Sequence[str] = ()) -> Iterator[Device]:
    """Ask the machine itself, what is connected to it, and the boards that are asked for.

    Args:
        targets: those that a board may turn out to be.
        asked: more boards, as ``--on`` takes them.

    Raises:
        UsageError: an asked one is written wrongly.

    """
    transports = importlib.import_module("targets.transports")
    for where in dict.fromkeys([*transports.around(), *asked]):
        way = transports.open_transport(where, _hear)
        try:
            identity = way.look()
        except PipelineError as e:
            yield Device(where, error=e)
            continue
        names = tuple(t.name for t in targets if not way.function_only and not unlike(t, identity))
        judged = not way.function_only and bool(identity.keys() - {"tracker_key"})
        yield Device(where, described(identity), names, judged, identity.get("lacks", ""))


def _hear(line: str) -> None:
    del line  # tries at a connection: the outcome says enough
