"""Judging built candidates: parity, quality, latency, size; then the choice of the fastest that passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compile.candidates import Attempt, frame_of
from compile.onnxruntime.backend import OnnxSession, onnxruntime_facts
from compile.parity import Parity, float_parity, integer_parity, output_psnr, parity_measurement, scale_differences, unproven
from compile.source import source_file
from eval.bundle import artifact_layers
from eval.cost import size_measurement
from eval.latency import compare, latency_measurements
from eval.quality import Image, QualityResult, Restorer, evaluate, session_restorer, to_batch
from eval.session import Session, load_backend, open_session
from eval.tiling import mirrored, restore_tiled, tile_plan
from pipeline.contract import Better, Evidence, Measurement, Pair, PairSource, Verdict
from quantize.artifact import ModelFolder
from targets.estimator import estimate

if TYPE_CHECKING:
    from pipeline.target import Target

Batch = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Opening:
    """What stands for an artifact on this machine: itself, or the same network in ONNX Runtime when it needs the device."""

    path: Path
    facts: Mapping[str, Any]
    stands_in: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate with everything that is known of it. ``time_ms`` decides: estimated for a board, measured for this host."""

    attempt: Attempt
    parity: Parity
    quality: QualityResult
    time_ms: float
    measurements: tuple[Measurement, ...]


class First:
    """The first pairs of a source (all of them with 0)."""

    def __init__(self, source: PairSource, count: int) -> None:
        self._source, self._count = source, min(count or len(source), len(source))

    def __len__(self) -> int:
        """Number of pairs."""
        return self._count

    def __getitem__(self, index: int) -> Pair:
        """Pair at ``index``."""
        return self._source[index]

    def digest(self) -> str:
        """Of the whole source."""
        return self._source.digest()

    def scenes(self) -> Mapping[str, str]:
        """Of the whole source."""
        return self._source.scenes()


class Judge:
    """Judges candidates of one network against each other.

    Args:
        folder: the network.
        source: images for parity and quality.
        target: the device.
        tile: side of the tiles for parity and latency, in pixels.
        threads: CPU threads.
        seconds: least measuring time of each artifact.

    """

    def __init__(self, folder: ModelFolder, source: PairSource, target: Target, tile: int, threads: int, seconds: float) -> None:
        self.folder, self.source, self.target = folder, source, target
        self.tile, self.threads, self.seconds = tile, threads, seconds
        self._quality: dict[Path | str, QualityResult] = {}
        self.batches = [to_batch(tile_of(source[i].lq, tile, tile)) for i in range(min(4, len(source)))]

    def judge(self, attempts: Sequence[Attempt]) -> list[Judged]:
        """Judge the attempts that were built; latency is measured interleaved over all that run here."""
        built = [a for a in attempts if a.built is not None]
        measured = self._latencies(built)
        return [self._judge_one(a, measured.get(a.plan.name, [])) for a in built]

    def float_quality(self) -> QualityResult:
        """Quality of the float network."""
        return self._quality_of(Opening(self.folder.float, onnxruntime_facts("fp32"), stands_in=False))

    def opening(self, attempt: Attempt) -> Opening:
        """What stands for a built candidate on this machine."""
        built = _built(attempt)
        if built.facts["runs_here"]:
            return Opening(built.path, built.facts, stands_in=False)
        return Opening(self.reference(attempt), onnxruntime_facts(attempt.plan.precision), stands_in=True)

    def reference(self, attempt: Attempt) -> Path:
        """The candidate's network as ONNX of free size."""
        return source_file(self.folder, _built(attempt).facts["source"])

    def _judge_one(self, attempt: Attempt, measured: list[Measurement]) -> Judged:
        opening = self.opening(attempt)
        parity = self._parity(attempt, opening)
        quality = self._quality_of(opening)
        conditions = {"split": "calibrate", "backend": attempt.plan.use, "precision": attempt.plan.precision, **_stand_in(opening)}
        rows = [*parity.measurements, *quality.measurements(Evidence.HOST, **conditions), size_measurement(_built(attempt).path), *measured]
        if self.target.is_host or attempt.plan.for_host:
            time_ms = next((m.value for m in measured if m.name == "latency_p50"), float("nan"))
        else:
            estimated = self._estimate(attempt)
            rows.append(estimated)
            time_ms = estimated.value
        return Judged(attempt, parity, quality, time_ms, tuple(rows))

    def _parity(self, attempt: Attempt, opening: Opening) -> Parity:
        built, stand_in = _built(attempt), _stand_in(opening)
        if built.facts["source"] == "float":
            if opening.stands_in:
                return unproven(f"{attempt.plan.precision} for {self._device(attempt)} does not run here; bench.py proves it on the device")
            with open_session(opening.path, opening.facts, self.threads) as artifact, self._plain(self.folder.float) as reference:
                return float_parity(artifact, reference, self.batches, threads=self.threads)
        plain = self.folder.qdq("s8")
        with open_session(opening.path, opening.facts, self.threads) as artifact, self._plain(plain) as reference:
            outputs = [output_psnr(artifact.run(x), reference.run(x)) for x in self.batches]
        differences = _differences(attempt, self.folder)
        return integer_parity(self._quality_of(opening), self._fake_quantized(plain), differences, parity_measurement(outputs, **stand_in))

    def _quality_of(self, opening: Opening) -> QualityResult:
        if opening.path not in self._quality:
            with open_session(opening.path, opening.facts, self.threads) as session:
                self._quality[opening.path] = evaluate(restorer_of(session, self.folder.size_multiple), self.source)
        return self._quality[opening.path]

    def _fake_quantized(self, path: Path) -> QualityResult:
        if "plain" not in self._quality:
            with self._plain(path) as session:
                self._quality["plain"] = evaluate(session_restorer(session, self.folder.size_multiple), self.source)
        return self._quality["plain"]

    def _plain(self, path: Path) -> Session:
        return OnnxSession(path, self.threads, optimise=False)

    def _latencies(self, built: Sequence[Attempt]) -> dict[str, list[Measurement]]:
        here = {a.plan.name: self.opening(a) for a in built if _built(a).facts["runs_here"]}
        if not here:
            return {}
        sessions = {name: open_session(o.path, o.facts, self.threads) for name, o in here.items()}
        try:
            results = compare({name: _call(s, self.batches[0]) for name, s in sessions.items()}, min_seconds=self.seconds)
        finally:
            for session in sessions.values():
                session.close()
        size = {"height": self.tile, "width": self.tile, "threads": self.threads}
        return {name: latency_measurements(r, **size, backend=name) for name, r in results.items()}

    def _estimate(self, attempt: Attempt) -> Measurement:
        height, width = frame_of(self.target, self.folder.size_multiple)
        layers = artifact_layers(self.reference(attempt), height, width, _built(attempt).facts["float_precision"])
        found = estimate(layers, self.target.rates[attempt.plan.runs_on])
        conditions = {
            "frame": f"{self.target.frame.width}x{self.target.frame.height}",
            "target": self.target.name,
            "runs_on": attempt.plan.runs_on,
            "model": "roofline",
            "bounds_ms": {k: round(v, 3) for k, v in sorted(found.by_bound().items())},
        }
        return Measurement("latency_p50", found.ms, "ms", Better.LOWER, 1, Evidence.ESTIMATED, conditions)

    def _device(self, attempt: Attempt) -> str:
        return self.target.gpu.name if attempt.plan.runs_on == "gpu" and self.target.gpu else self.target.cpu.mcpu


def choose(judged: Sequence[Judged], floor_psnr: float) -> Judged | None:
    """Pick the fastest candidate for the target that passes; where none is proven, the fastest that is unproven.

    Args:
        judged: candidates, those for this host alone are passed over.
        floor_psnr: least mean PSNR in dB.

    """
    for verdict in (Verdict.PASSED, Verdict.UNPROVEN):
        good = [j for j in judged if j.parity.verdict is verdict and j.quality.mean_psnr >= floor_psnr and j.time_ms > 0]
        if good:
            return min(good, key=lambda j: (j.time_ms, j.attempt.plan.name))
    return None


def restorer_of(session: Session, multiple: int) -> Restorer:
    """Restore whole images with a session: at once where its size is free, else in tiles."""
    if not session.height:
        return session_restorer(session, multiple)
    tile = (session.height, session.width)
    halo = min(tile) // 8

    def run(image: Image) -> Image:
        return restore_tiled(image, session.run, tile_plan(image.shape[0], image.shape[1], tile, halo, multiple))

    return run


def tile_of(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Cut the middle of an image [H, W, 3], mirrored beyond its borders where it is too small."""
    rows = mirrored((image.shape[0] - height) // 2, height, image.shape[0])
    columns = mirrored((image.shape[1] - width) // 2, width, image.shape[1])
    return np.ascontiguousarray(image[rows[:, None], columns])


def _built(attempt: Attempt) -> Any:
    return attempt.built


def _differences(attempt: Attempt, folder: ModelFolder) -> list[str]:
    """Parameters that an int8 artifact has otherwise than the network: read by its backend, or from its Q/DQ nodes."""
    built = _built(attempt)
    found = load_backend(attempt.plan.use).differences(built, folder)
    return scale_differences(built.path, folder.scales()) if found is None else found


def _stand_in(opening: Opening) -> dict[str, str]:
    return {"runtime": "onnxruntime on the same network"} if opening.stands_in else {}


def _call(session: Session, batch: Batch) -> Callable[[], Batch]:
    return lambda: session.run(batch)
