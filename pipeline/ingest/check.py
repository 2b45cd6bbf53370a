"""What a result must be before it counts: of this run's bundle, from the target's board, with the right output, steadily timed."""

from __future__ import annotations

import math
from typing import Any

from pipeline.errors import GateFailed, GateUnproven, UsageError
from pipeline.ingest.identity import described, unlike
from pipeline.ingest.result import DeviceResult
from pipeline.target import Target


def check_result(where: str, result: DeviceResult, bundle: Any, bundle_sha256: str, target: Target) -> None:
    """Refuse what proves nothing about the target.

    Args:
        where: the result's name in errors.
        result: what came back.
        bundle: the run's bundle, an ``eval.bundle.Bundle`` whose files were verified.
        bundle_sha256: hash of its manifest.
        target: the run's target.

    Raises:
        UsageError: another bundle, an unknown artifact, or another board.
        GateFailed: the output is not the golden one.
        GateUnproven: emulated, not timed, or timed unsteadily.

    """
    if result.bundle_sha256 != bundle_sha256:
        what = f"is of bundle {result.bundle_sha256[:12] or '(none)'}, the run's is {bundle_sha256[:12]}"
        raise UsageError(where, what, "bench this run's bundle, or name the run that made the other")
    artifact = bundle.artifact(result.artifact)
    _check_board(where, result, target)
    _check_golden(where, result, float(artifact.golden.psnr_at_least))
    if not result.stable:
        reason = result.unstable_reason or "no reason is given"
        raise GateUnproven(
            where,
            f"the timing was unstable ({reason}), so it proves nothing",
            "let the board cool, close what else runs there, bench again",
        )
    if result.kernel is None and result.frame is None:
        raise GateUnproven(where, "holds no timing", "bench again without --verify")


def _check_board(where: str, result: DeviceResult, target: Target) -> None:
    emulated = result.emulated()
    if emulated:
        hint = "an emulator proves function, never speed: bench on the board itself"
        raise GateUnproven(where, f"{emulated}; its golden output is right: {'yes' if result.verified else 'no'}", hint)
    wrong = unlike(target, result.identity)
    if wrong:
        hint = f"bench on {target.title}; --target names another if the run was for another"
        raise UsageError(where, f"comes from {described(result.identity)}, which is not {target.name}: {wrong}", hint)


def _check_golden(where: str, result: DeviceResult, bound: float) -> None:
    psnr = math.inf if result.golden.identical else result.golden.psnr
    if not result.verified or psnr is None or not psnr >= bound:
        got = "not verified" if psnr is None else f"{psnr:.1f} dB"
        what = f"{result.artifact}'s output on the board is {got} from the golden one, at least {bound:g} dB"
        raise GateFailed(
            where, what, "the board does not compute this network: see the log of bench, rebuild its engine, or run compile again"
        )
