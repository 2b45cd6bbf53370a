"""When int8 costs too much: the most sensitive tensors back to float, then everything."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from quantize.candidates import Contest, Judged
from quantize.insert import quantizers, set_float

MIXED = "int8-mixed"
_CROPS, _SIDE = 4, 128


def sensitivities(network: nn.Module, reference: nn.Module, images: list[Tensor]) -> dict[str, float]:
    """By tensor: the share of the squared int8 error that vanishes when this tensor, and all that share its scale, return to float.

    Args:
        network: prepared, all tensors in int8.
        reference: its float original.
        images: float32 [1, 3, H, W] in [0, 1].
    """
    probe = copy.deepcopy(network)
    crops = [image[..., :_SIDE, :_SIDE] for image in images[:_CROPS]]
    with torch.no_grad():
        wanted = [reference(crop) for crop in crops]
        error = {}
        for name in ("", *(q.name for q in quantizers(probe).values() if q.leader is q)):
            set_float(probe, [name] if name else [])
            error[name] = sum(float((probe(crop) - want).square().mean()) for crop, want in zip(crops, wanted, strict=True))
    whole = error.pop("") or 1.0
    return {name: (whole - rest) / whole for name, rest in sorted(error.items(), key=lambda item: item[1])}


def mixed(contest: Contest, chosen: Judged, count: int) -> Judged:
    """``chosen`` with its ``count`` most sensitive tensors in float."""
    ranked = list(sensitivities(chosen.network, contest.folded, contest.images))[:count]
    network = copy.deepcopy(chosen.network)
    set_float(network, ranked)
    return contest.judge(MIXED, network, int8=True, float_tensors=tuple(ranked))


def within_bound(contest: Contest, chosen: Judged) -> list[Judged]:
    """The rungs from ``chosen`` down to the first that loses at most ``max_drop`` dB on the calibration set; float at the latest."""
    rungs = [chosen]
    if not fits(contest, chosen) and contest.config.sensitive:
        rungs.append(mixed(contest, chosen, contest.config.sensitive))
    if not fits(contest, rungs[-1]):
        rungs.append(contest.float)
    return rungs


def fits(contest: Contest, candidate: Judged) -> bool:
    """Whether the candidate's loss on the calibration set is within the bound; NaN is not."""
    return bool(contest.float.mean - candidate.mean <= contest.config.max_drop)
