"""What pruning saves: in ONNX Runtime on this host, timed in turn, or by the estimator of the target, or in proportion to the work.

On a machine that does other work the differences between networks drown in noise, and channels go where nothing is saved. So the input
is timed twice among its variants: where its two times differ, theirs mean nothing, and the clock names another one that stands in.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import nn

from eval.cost import count_macs, onnx_layers
from eval.latency import LatencyResult, speedup
from eval.payoff import BACKEND, THREADS, tile_side, time_networks
from models.export import export_onnx
from models.spec import size_multiple
from pipeline.contract import Evidence
from pipeline.errors import StageFailed
from targets.estimator import estimate, retype

if TYPE_CHECKING:
    from pipeline.target import TargetView
    from prune.config import PruneConfig

QUIET = 10
"""Percentile of the times that small differences are taken between."""
_AGAIN = "again"
NOISE = 0.02
"""Share of its time by which a network may differ from itself. A quarter of one group's channels saves about as much."""


@dataclass(frozen=True, slots=True)
class Saved:
    """Milliseconds of a frame of the target for the whole network, and how many of them each variant saves.

    noise  share of ``base`` by which the network differed from itself, timed twice, or the spread of times that ``eval`` calls unstable
    """

    base: float
    ms: Mapping[str, float]
    noise: float = 0.0

    @property
    def stable(self) -> bool:
        """Whether the differences mean something; NaN does not."""
        return self.noise <= NOISE


class Clock(Protocol):
    """Whose milliseconds count."""

    evidence: Evidence
    conditions: dict[str, Any]

    def saved(self, base: nn.Module, variants: Mapping[str, nn.Module]) -> Saved:
        """Compare variants of a network with it."""

    def share(self, base: nn.Module, variant: nn.Module) -> float:
        """Share of the network's time, 0 to 1, that one variant saves; what a budget is checked by."""

    def stand_in(self, base_ms: float) -> Clock:
        """Whose differences count where this one's are noise; ``base_ms``: the whole network by this one."""


class HostClock:
    """The machine that runs the pipeline: fp32 in ONNX Runtime, one thread, on a tile, in turn; scaled to a frame by area.

    Args:
        tile: side of the tile in pixels.
        seconds: least time per network where many are compared.
        long_seconds: the same for one, whose share is to be exact.
        frame: height and width of the frame in pixels.
        workdir: for the ONNX files, which do not stay.
        target: whose estimator stands in; None: multiply-accumulates do.
    """

    evidence = Evidence.HOST

    def __init__(
        self, tile: int, seconds: float, long_seconds: float, frame: tuple[int, int], workdir: Path, target: TargetView | None = None
    ) -> None:
        self._tile, self._seconds, self._long_seconds = tile, seconds, long_seconds
        self._pixels, self._workdir, self._target = frame[0] * frame[1], workdir, target
        self.conditions: dict[str, Any] = {"backend": BACKEND, "precision": "fp32", "threads": THREADS, "frame": f"{frame[1]}x{frame[0]}"}
        self.conditions |= {"measured_on": f"{tile}x{tile}, scaled by area"}

    def saved(self, base: nn.Module, variants: Mapping[str, nn.Module]) -> Saved:
        """Differences of the quiet rounds: what else runs here only ever adds time."""
        times = self._times({"": base, **variants, _AGAIN: base}, self._seconds)
        scale = self._pixels / tile_side(size_multiple(base), self._tile) ** 2
        whole = np.asarray(times[""].ms)
        ms = {name: _difference(whole, np.asarray(times[name].ms)) * scale for name in variants}
        quiet = float(np.percentile(whole, QUIET))
        noise = abs(_difference(whole, np.asarray(times[_AGAIN].ms))) / quiet
        return Saved(quiet * scale, ms, max([noise, *(t.cv for t in times.values() if not t.stable)]))

    def share(self, base: nn.Module, variant: nn.Module) -> float:
        """By the speed-up as the stage reports it."""
        times = self._times({"before": base, "after": variant}, self._long_seconds)
        return 1 - 1 / speedup(times["before"], times["after"])

    def stand_in(self, base_ms: float) -> Clock:
        """The target's estimator, in the precision that is timed here; multiply-accumulates where the target has none."""
        target = self._target
        if target is None or target.backends[0].runs_on not in target.rates:
            return MacsClock(base_ms)
        precisions = target.backends[0].precisions
        return EstimatorClock(target, self._workdir, "fp32" if "fp32" in precisions else precisions[0])

    def _times(self, networks: Mapping[str, nn.Module], seconds: float) -> dict[str, LatencyResult]:
        with tempfile.TemporaryDirectory(dir=self._workdir) as folder:
            return time_networks(networks, Path(folder), self._tile, seconds)


class EstimatorClock:
    """The target, by its roofline estimate, as the first backend and precision of the target file run the network.

    Args:
        target: its ``backends``, ``rates`` and ``frame`` are read.
        workdir: for the ONNX files, which do not stay.
        precision: another one that the estimator knows.

    Raises:
        StageFailed: the target states no rates for that backend's processor.
    """

    evidence = Evidence.ESTIMATED

    def __init__(self, target: TargetView, workdir: Path, precision: str | None = None) -> None:
        choice, self._frame, self._workdir = target.backends[0], target.frame, workdir
        if choice.runs_on not in target.rates:
            raise StageFailed("prune", f"the target states no rates for its {choice.runs_on}", "add them to the target file")
        self._known: tuple[nn.Module, float] | None = None
        self._rates, self._precision, self._backend = target.rates[choice.runs_on], precision or choice.precisions[0], choice.use
        self.conditions: dict[str, Any] = {
            "model": "roofline",
            "backend": choice.use,
            "precision": self._precision,
            "runs_on": choice.runs_on,
        }
        self.conditions |= {"frame": f"{self._frame.width}x{self._frame.height}"}

    def saved(self, base: nn.Module, variants: Mapping[str, nn.Module]) -> Saved:
        """Difference of the estimates."""
        whole = self._whole(base)
        return Saved(whole, {name: whole - self._ms(network) for name, network in variants.items()})

    def share(self, base: nn.Module, variant: nn.Module) -> float:
        """By the estimates."""
        return 1 - self._ms(variant) / self._whole(base)

    def stand_in(self, base_ms: float) -> Clock:
        """Itself: an estimate has no noise."""
        return self

    def _whole(self, base: nn.Module) -> float:
        """Estimated once for a network that every variant is compared with."""
        if self._known is None or self._known[0] is not base:
            self._known = base, self._ms(base)
        return self._known[1]

    def _ms(self, network: nn.Module) -> float:
        multiple = size_multiple(network)
        height, width = (-(-side // multiple) * multiple for side in (self._frame.height, self._frame.width))
        with tempfile.TemporaryDirectory(dir=self._workdir) as folder:
            path = Path(folder) / "network.onnx"
            export_onnx(network, path)
            made = estimate(retype(onnx_layers(path, height, width), self._precision), self._rates, backend=self._backend)
            self.conditions["model"] = made.model
            return made.ms


class MacsClock:
    """Milliseconds in proportion to multiply-accumulates.

    Args:
        base_ms: what the whole network takes.
    """

    evidence = Evidence.ESTIMATED

    def __init__(self, base_ms: float) -> None:
        self._base_ms = base_ms
        self.conditions: dict[str, Any] = {"model": "in proportion to multiply-accumulates"}

    def saved(self, base: nn.Module, variants: Mapping[str, nn.Module]) -> Saved:
        """The share of the work that each variant saves, of the time of the whole."""
        return Saved(self._base_ms, {name: self.share(base, network) * self._base_ms for name, network in variants.items()})

    def share(self, base: nn.Module, variant: nn.Module) -> float:
        """By the work."""
        return 1 - count_macs(variant) / count_macs(base)

    def stand_in(self, base_ms: float) -> Clock:
        """Itself: counting has no noise."""
        return self


def clock_for(target: TargetView, config: PruneConfig, workdir: Path) -> Clock:
    """The host's where it is the target or asked for, else the target's estimator."""
    if target.is_host or config.on == "host":
        frame = target.frame.height, target.frame.width
        return HostClock(config.tile, config.sensitivity.seconds, config.seconds, frame, workdir, target)
    return EstimatorClock(target, workdir)


def _difference(whole: np.ndarray, other: np.ndarray) -> float:
    rounds = min(len(whole), len(other))
    return float(np.percentile(whole[:rounds], QUIET) - np.percentile(other[:rounds], QUIET))
