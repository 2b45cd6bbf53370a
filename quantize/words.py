"""What the report says of the contest."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from quantize.contest import FLOAT, Contest
from quantize.exchange import Table
from quantize.judged import Judged
from quantize.trainings import CONTROL

if TYPE_CHECKING:
    from eval.quality import QualityResult
    from pipeline.contract import Candidate, StageContext

_ROWS = 3


def reason(candidate: Judged, contest: Contest) -> str:
    """Why a candidate stands where it stands."""
    if candidate is contest.float:
        return "the input in float, which the others are held against"
    if candidate.name == CONTROL:
        return f"{_delta(candidate, contest)}: what the training gives without int8; never handed on"
    tensors = f"; in float: {', '.join(candidate.float_tensors)}" if candidate.float_tensors else ""
    return f"{_delta(candidate, contest)} against float{tensors}"


def choice(contest: Contest, found: Sequence[Judged], chosen: Judged) -> list[str]:
    """Who won, and whether training was worth it."""
    rivals = ", ".join(f"{c.name} {c.mean - contest.float.mean:+.3f}" for c in found if c is not chosen and c.int8)
    notes = [f"{chosen.name} is the best int8: {_delta(chosen, contest)} against float ({rivals})"]
    calibrated = contest.best([c for c in found if c.int8 and not c.trained])
    trained = [c for c in found if c.int8 and c.trained]
    if trained:
        notes.append(_duel(contest, contest.best(trained), calibrated, chosen))
    elif contest.spares_training(calibrated):
        notes.append(f"{calibrated.name} costs no more than {contest.config.enough:g} dB: nothing was trained")
    return notes


def _duel(contest: Contest, trained: Judged, calibrated: Judged, chosen: Judged) -> str:
    gain = trained.against(calibrated)
    worst = [c.against(contest.float).worst for c in (trained, calibrated)]
    tie = "a tie by standard error or margin, which the better worst image decides: " if contest.tied(trained, calibrated) else ""
    verdict = "training wins" if chosen.trained else "calibration is handed on"
    first = f"{trained.name} against {calibrated.name}: {gain.mean:+.3f} ± {gain.error:.3f} dB, paired"
    return f"{first}; worst image {worst[0]:+.3f} against {worst[1]:+.3f} dB: {tie}{verdict}"


def retreats(contest: Contest, rungs: Sequence[Judged], table: Table) -> list[str]:
    """What was given up on the way from the choice to what is handed on, and why."""
    notes = []
    for above, below in itertools.pairwise(rungs):
        loss = f"{above.name} loses {_loss(above, contest)}"
        what = "all returns to float"
        if below.int8:
            count = len(below.float_tensors)
            ms = sum(r.ms for r in table.rows if r.tensor in below.float_tensors)
            what = (
                f"{count} tensor{'s' * (count != 1)} return{'s' * (count == 1)} to float for {ms:+.3f} ms "
                f"({table.costs.evidence}): {', '.join(below.float_tensors)}"
            )
        notes.append(f"retreated: {loss}: {what}")
    return notes


def exchange(table: Table) -> str:
    """The best rows of the exchange table."""
    rows = sorted(table.rows, key=lambda r: -r.db)[:_ROWS]
    text = ", ".join(f"{r.tensor} {r.db:+.4f} dB for {r.ms:+.3f} ms" for r in rows)
    frame = table.costs.conditions["frame"]
    return f"in float the most sensitive tensors of {table.of} would regain, on crops, at {frame} ({table.costs.evidence}): {text}"


def speed(ctx: StageContext, gain: float) -> str:
    """What int8 saves here, and what follows from it."""
    text = f"int8 is {gain:.2f}x as fast as fp32 in ONNX Runtime on this host, 1 thread"
    if gain >= ctx.config.min_speedup:
        return text
    if ctx.target.is_host:
        return f"retreated: {text}, at least {ctx.config.min_speedup:g}x is asked for: all returns to float"
    return f"{text}; the target is another device, where compile judges it"


def test(candidates: Sequence[Candidate], handed_on: Judged, measured: QualityResult) -> str:
    """How all of them do on the test set, which chose nothing."""
    values = {c.name: c.measurements[1].value for c in candidates}
    others = ", ".join(f"{name} {value - values[FLOAT]:+.3f} dB" for name, value in values.items() if name not in (FLOAT, handed_on.name))
    mean = float(np.mean(measured.psnr))
    count = candidates[0].measurements[1].samples
    first = f"on the test set {handed_on.name} as ONNX Runtime computes it has {mean:.3f} dB"
    return f"{first}; over the first {count} images float has {values[FLOAT]:.3f} dB, and beside it {others}"


def _delta(candidate: Judged, contest: Contest) -> str:
    return f"{candidate.against(contest.float)} on the held-out pictures"


def _loss(candidate: Judged, contest: Contest) -> str:
    drop, config = candidate.against(contest.float), contest.config
    if not -drop.mean <= config.max_drop:
        return f"{-drop.mean:.3f} dB on the held-out pictures, more than the {config.max_drop:g} dB allowed"
    return f"{-drop.worst:.3f} dB on one held-out picture, more than the {config.max_drop_worst:g} dB allowed"
