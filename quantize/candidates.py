"""The alternatives and the choice between them: calibrations, training, and the float network that they are held against.

All are judged by PSNR on the calibration set. The test set is for the report alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from eval.quality import Restorer, psnr, torch_restorer
from models import checkpoint
from models.arch import size_multiple
from models.fold import fold_batchnorm
from pipeline.contract import Better, Evidence, Measurement, Pair, StageContext
from quantize.calibrate import Histograms, Method, calibration_images, observe, set_scales
from quantize.insert import prepare
from train.recover import recover

FLOAT, QAT, CONTROL = "float", "qat", "float-control"
_PTQ: dict[str, Method] = {"ptq-percentile": "percentile", "ptq-mse": "mse"}


@dataclass(frozen=True)
class Judged:
    """A network and its PSNR per image of the calibration set in dB; ``int8`` when it is fake-quantized."""

    name: str
    network: nn.Module
    psnr: tuple[float, ...]
    int8: bool
    float_tensors: tuple[str, ...] = field(default=())

    @property
    def mean(self) -> float:
        """Mean PSNR on the calibration set in dB."""
        return float(np.mean(self.psnr))


class Contest:
    """The stage's input, batch norm folded, with everything that is derived from it.

    Args:
        ctx: the stage's context.

    Raises:
        UsageError: the input is no checkpoint of ours.
        StageFailed: nothing in the network can be quantized, or it is not finite on the calibration set.
    """

    def __init__(self, ctx: StageContext) -> None:
        self.ctx, self.config = ctx, ctx.config
        self.source = checkpoint.load(ctx.inputs["model"].path)
        self.folded = fold_batchnorm(self.source.module)
        calibrate = ctx.data["calibrate"]
        self.pairs: list[Pair] = [calibrate[i] for i in range(min(self.config.images, len(calibrate)))]
        self.images = list(calibration_images(self.pairs, size_multiple(self.folded)))
        self.prepared = prepare(self.folded)
        self.float = self.judge(FLOAT, self.folded, int8=False)

    def candidates(self) -> list[Judged]:
        """The int8 candidates, calibrated ones first, and the float control where one is asked for."""
        histograms = observe(self.prepared, self.images)
        found = [self._calibrated(name, method, histograms) for name, method in _PTQ.items()]
        if self.config.qat:
            start = max(found, key=lambda c: c.mean)
            found.append(self.judge(QAT, self._trained(start.network, QAT), int8=True))
            if self.config.control:
                found.append(self.judge(CONTROL, self._trained(self.folded, CONTROL), int8=False))
        for candidate in found:
            self.ctx.progress.log(f"quantize: {candidate.name} {candidate.mean - self.float.mean:+.3f} dB on the calibration set")
        return found

    def choose(self, candidates: list[Judged]) -> Judged:
        """The int8 candidate with the highest PSNR; training must beat calibration by ``margin`` dB."""
        calibrated = max((c for c in candidates if c.name in _PTQ), key=lambda c: c.mean)
        trained = next((c for c in candidates if c.name == QAT), None)
        return trained if trained is not None and trained.mean > calibrated.mean + self.config.margin else calibrated

    def judge(self, name: str, network: nn.Module, int8: bool, float_tensors: tuple[str, ...] = ()) -> Judged:
        """Measure a network on the calibration set."""
        return Judged(name, network, psnr_per_image(network, self.pairs), int8, float_tensors)

    def _calibrated(self, name: str, method: Method, histograms: Histograms) -> Judged:
        network = copy.deepcopy(self.prepared)
        set_scales(network, histograms, method)
        return self.judge(name, network, int8=True)

    def _trained(self, start: nn.Module, label: str) -> nn.Module:
        ctx, config = self.ctx, self.config
        network = copy.deepcopy(start)
        rates = {"*.log_step": config.step_lr}
        source = ctx.data["train"]
        recover(network, self._guide(), source, config.recover, ctx.workdir / label, ctx.progress, ctx.seed, label=label, lr_scale=rates)
        return network

    def _guide(self) -> nn.Module:
        given = self.ctx.inputs.get("teacher")
        if given is None or self.config.guide == "input":
            return copy.deepcopy(self.folded)
        return checkpoint.load(given.path).module


def psnr_per_image(network: nn.Module, pairs: list[Pair]) -> tuple[float, ...]:
    """PSNR of every restored image in dB."""
    with placed_restorer(network) as restore:
        return tuple(psnr(restore(pair.lq), pair.gt) for pair in pairs)


@contextmanager
def placed_restorer(network: nn.Module) -> Iterator[Restorer]:
    """A restorer over ``network``, on the GPU where there is one; the network is on the CPU again afterwards."""
    try:
        yield torch_restorer(network.to("cuda" if torch.cuda.is_available() else "cpu"))
    finally:
        network.to("cpu")


def split_measurements(candidate: Judged, test: list[Pair]) -> tuple[Measurement, ...]:
    """PSNR of a candidate on the calibration set (which chose it) and on test pairs (which did not)."""
    on_test = psnr_per_image(candidate.network, test)
    return tuple(_psnr(values, split) for values, split in ((candidate.psnr, "calibrate"), (on_test, "test")))


def _psnr(values: tuple[float, ...], split: str) -> Measurement:
    conditions = {"split": split, "computed_by": "torch"}
    return Measurement("psnr", float(np.mean(values)), "dB", Better.HIGHER, len(values), Evidence.HOST, conditions, values)
