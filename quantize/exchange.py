"""The exchange table: for each tensor, the dB that return with it to float, and the milliseconds that this costs."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.spec import size_multiple
from quantize.calibrate import calibration_images
from quantize.contest import Contest
from quantize.costs import Costs, estimated, measured
from quantize.insert import quantizers, set_all_float, set_float
from quantize.judged import Judged

CROPS, SIDE, STRIDE = 4, 192, 64
CHEAPEST_MS = 1e-6  # what costs nothing is exchanged at a finite rate


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor, with all that share its scale.

    db        PSNR regained in dB when it is float, mean over the crops
    db_worst  the same on the crop of the image that loses most
    ms        milliseconds that it costs
    """

    tensor: str
    db: float
    db_worst: float
    ms: float

    @property
    def rate(self) -> float:
        """Decibels per millisecond; what costs nothing comes first."""
        return self.db / max(self.ms, CHEAPEST_MS)


@dataclass(frozen=True, slots=True)
class Table:
    """The exchange table of one int8 network.

    lost, lost_worst  what its int8 costs on the crops in dB, against the same weights in float: mean, and the worst image's crop
    """

    of: str
    rows: tuple[Row, ...]
    lost: float
    lost_worst: float
    costs: Costs

    def write(self, path: Path, chosen: Sequence[str]) -> Path:
        """Write the table as JSON; ``chosen``: the tensors that went back to float."""
        rows = [
            {"tensor": r.tensor, "db": round(r.db, 5), "db_worst": round(r.db_worst, 5), "ms": round(r.ms, 6), "float": r.tensor in chosen}
            for r in self.rows
        ]
        content = {
            "schema": 1,
            "network": self.of,
            "db": {"unit": "dB", "evidence": "host", "lost": self.lost, "lost_worst": self.lost_worst, "crops": f"{SIDE}x{SIDE} at most"},
            "ms": {"unit": "ms", "evidence": str(self.costs.evidence), "int8": self.costs.whole_ms, **self.costs.conditions},
            "tensors": rows,
        }
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return path


def exchange_table(contest: Contest, chosen: Judged, path: Path, by_measurement: bool) -> Table:
    """What each tensor of ``chosen`` is worth in float, best exchange first.

    Args:
        contest: the held-out pictures and the target.
        chosen: an int8 candidate with all its tensors in int8.
        path: its signed Q/DQ file.
        by_measurement: time the files on this host instead of estimating them for the target.
    """
    ctx = contest.ctx
    gains, lost = sensitivities(contest, chosen)
    if by_measurement:
        costs = measured(chosen.network, ctx.target.opset, contest.config.tile, ctx.workdir / "exchange")
    else:
        costs = estimated(chosen.network, path, ctx.target)
    rows = [Row(name, float(g[:-1].mean()), float(g[-1]), costs.ms[name]) for name, g in gains.items()]
    return Table(chosen.name, tuple(sorted(rows, key=lambda r: -r.rate)), float(lost[:-1].mean()), float(lost[-1]), costs)


def sensitivities(contest: Contest, chosen: Judged) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """By tensor that owns a scale: the PSNR regained on each crop when it returns to float, in dB, the worst image's crop last.

    Also what int8 costs on these crops. They lie where it costs most: an image's mean hides the place that it spoils.
    """
    network = copy.deepcopy(chosen.network)
    crops = _crops(contest, chosen, network)
    set_float(network, ())
    whole = _psnrs(network, crops)
    gains = {}
    for name in (q.name for q in quantizers(network).values() if q.leader is q):
        set_float(network, [name])
        gains[name] = _psnrs(network, crops) - whole
    set_all_float(network)
    return gains, _psnrs(network, crops) - whole


def _crops(contest: Contest, chosen: Judged, network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """(lq, gt) of evenly spread held-out images, and of the one that loses most; where int8 raises the squared error most."""
    losses = np.asarray(chosen.psnr) - np.asarray(contest.float.psnr)
    pairs, count = contest.parts.judging, len(contest.parts.judging)
    picked = [*dict.fromkeys(int(i) for i in np.linspace(0, count - 1, min(CROPS, count))), int(losses.argmin())]
    out = []
    for i in picked:
        (lq,) = calibration_images([pairs[i]], size_multiple(network))
        gt = torch.from_numpy(pairs[i].gt.astype(np.float32) / 255).permute(2, 0, 1)[None, :, : lq.shape[2], : lq.shape[3]]
        top, left, side = _worst_place(network, lq, gt)
        out.append((lq[..., top : top + side, left : left + side].contiguous(), gt[..., top : top + side, left : left + side]))
    return out


@torch.no_grad()
def _worst_place(network: nn.Module, lq: Tensor, gt: Tensor) -> tuple[int, int, int]:
    side = min(SIDE, lq.shape[2] // STRIDE * STRIDE or lq.shape[2], lq.shape[3] // STRIDE * STRIDE or lq.shape[3])
    set_float(network, ())
    rounded = (network(lq) - gt).square()
    set_all_float(network)
    harm = F.avg_pool2d((rounded - (network(lq) - gt).square()).mean(1, keepdim=True), side, min(STRIDE, side))
    row, column = divmod(int(harm.argmax()), harm.shape[-1])
    return row * min(STRIDE, side), column * min(STRIDE, side), side


@torch.no_grad()
def _psnrs(network: nn.Module, crops: Sequence[tuple[Tensor, Tensor]]) -> NDArray[np.float64]:
    errors = [float(((network(lq).clamp(0, 1) * 255).round() / 255 - gt).square().mean()) for lq, gt in crops]
    db: NDArray[np.float64] = -10 * np.log10(np.maximum(np.asarray(errors), 1e-10))
    return db
