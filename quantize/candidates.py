"""The alternatives: calibrations, what refines the best of them, trainings, and the float control."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

from torch import nn

from pipeline.errors import StageFailed
from quantize.calibrate import Histograms, Method, observe, set_scales
from quantize.contest import Contest
from quantize.equalise import correct_biases, equalise
from quantize.insert import prepare
from quantize.judged import Judged
from quantize.trainings import CONTROL, planned, train_all


def compete(contest: Contest) -> list[Judged]:
    """Make and judge the int8 candidates, calibrated ones first, and the float control where one is asked for."""
    found = []
    for candidate in _made(contest):
        found.append(candidate)
        contest.ctx.progress.log(f"quantize: {candidate.name} {candidate.against(contest.float)} on held-out pictures")
    return found


def _made(contest: Contest) -> Iterator[Judged]:
    plain = _calibrated(contest, contest.prepared, "ptq", contest.config.calibration)
    yield from plain
    best = contest.best(plain)
    refined = list(_refined(contest, best))
    yield from refined
    start = contest.best([*plain, *refined])
    if planned(contest) and not contest.spares_training(start):
        for training, network in train_all(contest, start.network, best.network):
            yield contest.judge(training.name, network, int8=training.contender != CONTROL, trained=True)


def _refined(contest: Contest, best: Judged) -> Iterator[Judged]:
    """What equalisation and bias correction make of the best calibration."""
    method: Method = best.name.removeprefix("ptq-")  # type: ignore[assignment]
    if contest.config.correct_bias:
        yield _corrected(contest, best)
    if not contest.config.equalise:
        return
    try:
        equalised = equalise(contest.folded, contest.images)
    except StageFailed as e:
        contest.ctx.progress.log(f"quantize: not equalised: {e.what}")
        return
    equal = _calibrated(contest, prepare(equalised, contest.unsigned), "ptq-cle", (method,))[0]
    yield equal
    if contest.config.correct_bias:
        yield _corrected(contest, equal)


def _corrected(contest: Contest, candidate: Judged) -> Judged:
    network = copy.deepcopy(candidate.network)
    correct_biases(network, contest.images)
    return contest.judge(f"{candidate.name}-bc", network, int8=True)


def _calibrated(contest: Contest, prepared: nn.Module, prefix: str, methods: Sequence[Method]) -> list[Judged]:
    histograms: Histograms = observe(prepared, contest.images)
    found = []
    for method in methods:
        network = copy.deepcopy(prepared)
        set_scales(network, histograms, method)
        found.append(contest.judge(f"{prefix}-{method}", network, int8=True))
    return found
