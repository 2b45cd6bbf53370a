"""Why a candidate won or lost, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compile.candidates import Attempt
from compile.judge import Judged
from compile.limits import Limits
from pipeline.contract import Verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """The choice.

    chosen  for the target
    host    the fastest on this machine
    limits  what they were held to
    how     where times for the target come from: "estimated" or "measured"
    """

    chosen: Judged
    host: Judged
    limits: Limits
    how: str

    def reason(self, j: Judged) -> str:
        """Why a judged candidate was chosen or not."""
        if j.parity.verdict is Verdict.FAILED:
            return f"parity failed: {j.parity.reason}"
        fault = self.limits.fault(j.quality, j.mb)
        if fault:
            return fault
        if j is self.chosen:
            passes = "the fastest that passes, by a stand-in" if j.parity.stands_in else "the fastest that passes"
            first = passes if j.parity.verdict is Verdict.PASSED else "the fastest; none is proven"
            return f"{first}: {j.time_ms:.2f} ms {self.how}; {j.parity.reason}"
        here = "; the fastest on this machine, in the bundle to be run here" if j is self.host else ""
        if j.attempt.plan.beside:
            return f"for this machine only: {j.time_ms:.2f} ms measured; {j.parity.reason}{here}"
        return f"{self._slower(j)}; {j.parity.reason}{here}"

    def _slower(self, j: Judged) -> str:
        mine, best = j.time_ms, self.chosen.time_ms
        if not mine > 0:
            return "has no time: it does not run on this machine"
        both = f"{mine:.2f} ms {self.how} against {best:.2f}"
        if mine < best:
            return f"faster by {100 * (1 - mine / best):.0f} %, but unproven: {both}"
        if mine == best:
            return f"as fast, and larger or later in the alphabet: {both}, {j.mb:.2f} MB against {self.chosen.mb:.2f}"
        return f"{mine / best:.3g} times as slow: {both}" if mine >= 2 * best else f"slower by {100 * (mine / best - 1):.0f} %: {both}"


def notes(for_target: Sequence[Judged], chosen: Judged) -> list[str]:
    """That the choice itself did not run, and what may be faster than it, and is not proven."""
    faster = [j for j in for_target if j.parity.verdict is Verdict.UNPROVEN and j is not chosen and j.time_ms < chosen.time_ms]
    stood = [f"{chosen.attempt.plan.name} did not run here: {chosen.parity.reason}"] if chosen.parity.stands_in else []
    return [*stood, *(f"{j.attempt.plan.name} may be faster ({j.time_ms:.2f} ms), but {j.parity.reason}" for j in faster)]


def build_notes(attempts: Sequence[Attempt]) -> list[str]:
    """What backends say of the artifacts that they built, each artifact once."""
    return list(dict.fromkeys(f"{a.plan.artifact}: {line}" for a in attempts if a.built for line in a.built.facts.get("notes", ())))


def why_none(attempts: Sequence[Attempt], judged: Sequence[Judged], limits: Limits) -> str:
    """Every candidate with the reason why it does not pass."""
    parts = [f"{a.plan.name}: {a.reason}" for a in attempts if a.built is None]
    for j in judged:
        beside = " (passes, but is for this machine only)" if j.attempt.plan.beside else " (passes, but has no time)"
        fault = "" if j.parity.verdict is Verdict.FAILED else limits.fault(j.quality, j.mb) or beside
        parts.append(f"{j.attempt.plan.name}: {j.parity.reason}{fault and '; '}{fault.strip()}")
    return "; ".join(parts)
