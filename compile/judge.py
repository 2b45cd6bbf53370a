"""Judging built candidates: parity, quality, latency, size; then the choice of the fastest that passes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile.candidates import Attempt, frame_of
from compile.child import Runtimes
from compile.limits import Limits
from compile.onnxruntime.backend import OnnxSession, onnxruntime_facts
from compile.parity import (
    PROOF,
    Parity,
    Task,
    by_stand_in,
    float_parity,
    integer_parity,
    output_psnr,
    parity_measurement,
    qdq_differences,
    unproven,
    with_task_parity,
)
from compile.pictures import restorer_of, tile_of
from compile.proof import Proof
from compile.remote import Clock, RemoteSession, differences, in_turn
from compile.source import Source, source_file
from eval.bundle import artifact_layers
from eval.cost import rates_of, size_measurement
from eval.latency import LatencyResult, latency_measurements
from eval.quality import QualityResult, evaluate
from eval.receptive import receptive_field
from eval.seams import seam_measurements
from eval.session import Session
from eval.tiling import Overlap, overlap_for
from pipeline.contract import Better, Evidence, Measurement, PairSource, Verdict
from pipeline.errors import StageFailed, ToolchainMissing
from pipeline.machine import cores
from pipeline.store import hash_file
from quantize.artifact import ModelFolder
from targets.estimator import estimate

if TYPE_CHECKING:
    from pipeline.target import Target


@dataclass(frozen=True, slots=True)
class Opening:
    """What stands for an artifact on this machine: itself, or the same network in ONNX Runtime when it needs the device."""

    path: Path
    facts: Mapping[str, Any]
    stands_in: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate with everything that is known of it. ``time_ms`` decides: estimated for a board, measured for this host.

    ``mb`` is the artifact's size in 10**6 bytes.
    """

    attempt: Attempt
    parity: Parity
    quality: QualityResult
    time_ms: float
    mb: float
    measurements: tuple[Measurement, ...]


class Judge:
    """Judges candidates of one network against each other. Every runtime works in a process of its own.

    Args:
        folder: the network.
        source: images for quality, by which candidates are chosen.
        target: the device.
        tile: side of the tiles for parity and latency of what takes any size, in pixels.
        seconds: least measuring time of each artifact.
        runtimes: the processes.
        test: images that parity is shown at (``compile.proof``), by which nothing is chosen; those of ``source`` when left out.

    """

    def __init__(
        self,
        folder: ModelFolder,
        source: PairSource,
        target: Target,
        tile: int,
        seconds: float,
        runtimes: Runtimes,
        test: PairSource | None = None,
    ) -> None:
        self.folder, self.source, self.target, self.runtimes = folder, source, target, runtimes
        self.tile, self.seconds = tile, seconds
        self._quality: dict[tuple[str, ...], QualityResult] = {}
        self.receptive = receptive_field(folder.float, folder.size_multiple)
        self.proof = Proof(folder, source, "calibrate") if test is None else Proof(folder, test, "test")
        self.batches = self.proof.batches((tile, tile))

    def judge(self, attempts: Sequence[Attempt]) -> list[Judged]:
        """Judge the attempts that were built; latency is measured in turn over all that run here. One that fails to run is a verdict."""
        built = [a for a in attempts if a.built is not None]
        times, failed = self.times(built)
        return [self.judge_one(a, times.get(a.plan.name), failed.get(a.plan.name, "")) for a in built]

    def times(self, built: Sequence[Attempt], clock: Clock = "wall") -> tuple[dict[str, LatencyResult], dict[str, str]]:
        """Times in turn of what runs here, with threads that this machine has or is the target for; and why the others did not run."""
        sessions, failed = {}, {}
        for attempt in built:
            if _built(attempt).facts["runs_here"] and self._threads(attempt) == attempt.plan.threads:
                try:
                    sessions[attempt.plan.name] = self.session(self.opening(attempt), attempt.plan.threads)
                except (StageFailed, ToolchainMissing) as e:
                    failed[attempt.plan.name] = e.what
        inputs = {name: self.proof.batches(self._size(session))[0] for name, session in sessions.items()}
        times, died = in_turn(sessions, inputs, min_seconds=self.seconds, clock=clock)
        return times, failed | died

    def session(self, opening: Opening, threads: int = 1) -> RemoteSession:
        """An opening's session, in the process of its runtime."""
        return RemoteSession(self.runtimes, opening.path, opening.facts, threads)

    def float_quality(self) -> QualityResult:
        """Quality of the float network."""
        return self.quality(self.float_opening())

    def float_opening(self) -> Opening:
        """The float network, in ONNX Runtime."""
        return Opening(self.folder.float, onnxruntime_facts("fp32"), stands_in=False)

    def opening(self, attempt: Attempt) -> Opening:
        """What stands for a built candidate on this machine."""
        built = _built(attempt)
        if built.facts["runs_here"]:
            return Opening(built.path, built.facts, stands_in=False)
        return Opening(self.reference(attempt), onnxruntime_facts(attempt.plan.precision), stands_in=True)

    def reference(self, attempt: Attempt) -> Path:
        """The candidate's network as ONNX of free size."""
        return source_file(self.folder, _built(attempt).facts["source"])

    def quality(self, opening: Opening) -> QualityResult:
        """Quality on the source's images; the same file in the same runtime is asked once."""
        key = (str(opening.facts["backend"]), str(opening.facts["precision"]), hash_file(opening.path))
        if key not in self._quality:
            self._quality[key] = evaluate(restorer_of(self.session(opening), self.folder.size_multiple, self.receptive), self.source)
        return self._quality[key]

    def overlap(self, attempt: Attempt) -> Overlap:
        """How tiles of a candidate overlap; one of free size takes tiles of the target's frame."""
        built = _built(attempt)
        fixed = min(int(built.facts["height"]), int(built.facts["width"]))
        return overlap_for(self.receptive, fixed or min(frame_of(self.target, self.folder.size_multiple)))

    def seams(self) -> list[Measurement]:
        """What tiles do to images, with the float network: two of the source, mirrored to twice a tile's side where they are smaller."""
        images = [self.source[i].lq for i in range(min(2, len(self.source)))]
        images = [tile_of(image, *(max(side, 2 * self.tile) for side in image.shape[:2])) for image in images]
        run = self.session(self.float_opening()).run
        return seam_measurements(images, run, self.receptive, (self.tile, self.tile), self.folder.size_multiple)

    def judge_one(self, attempt: Attempt, times: LatencyResult | None, failure: str = "") -> Judged:
        """Judge one attempt by its times, or by the reason why it did not run."""
        opening, size = self.opening(attempt), size_measurement(_built(attempt).path)
        try:
            if failure:
                raise StageFailed(attempt.plan.name, failure, "")
            parity, quality = self._parity(attempt, opening), self.quality(opening)
        except (StageFailed, ToolchainMissing) as e:
            return Judged(
                attempt, Parity(Verdict.FAILED, f"does not run: {e.what}"), _nothing(len(self.source)), math.nan, size.value, (size,)
            )
        conditions = {"split": "calibrate", "backend": attempt.plan.use, "precision": attempt.plan.precision, **_stand_in(opening)}
        rows = [*parity.measurements, *quality.measurements(Evidence.HOST, **conditions), size, *self._latency(attempt, times)]
        if self.target.is_host or attempt.plan.for_host:
            time_ms = times.p50 if times is not None else math.nan
        else:
            estimated = self._estimate(attempt)
            rows.append(estimated)
            time_ms = estimated.value
        return Judged(attempt, parity, quality, time_ms, size.value, tuple(rows))

    def _latency(self, attempt: Attempt, times: LatencyResult | None) -> list[Measurement]:
        if times is None:
            return []
        height, width = (int(_built(attempt).facts[side]) or self.tile for side in ("height", "width"))
        return latency_measurements(times, height=height, width=width, threads=attempt.plan.threads, backend=attempt.plan.name)

    def _size(self, session: Session) -> tuple[int, int]:
        """Height and width that a session is tried at: its own where they are fixed."""
        return session.height or self.tile, session.width or self.tile

    def _parity(self, attempt: Attempt, opening: Opening) -> Parity:
        """Against the file that it was made from, run as it is written."""
        facts, threads, device = _built(attempt).facts, self._threads(attempt), self._device(attempt)
        source: Source = facts["source"]
        if source == "float" and opening.stands_in:
            return unproven(f"{attempt.plan.precision} for {device} does not run here; {PROOF} proves it there")
        artifact, split = self.session(opening, threads), self.proof.split
        size = self._size(artifact)
        got, want = [artifact.run(x) for x in self.proof.batches(size)], self.proof.outputs(source, size)
        at_tiles = Task(self.proof.psnr(got, size), self.proof.psnr(want, size), split, "tile")
        if source != "float":
            said = {"split": split, "flavour": source, **_stand_in(opening)}
            row = parity_measurement([output_psnr(a, b) for a, b in zip(got, want, strict=True)], **said)
            tasks = [self._task(opening, self._fake_quantized(source, (artifact.height, artifact.width))), at_tiles]
            found = integer_parity(self._differences(attempt), tasks, row, **_stand_in(opening))
            return by_stand_in(found, device) if opening.stands_in else found
        found = float_parity(got, want, facts["precision"], split, threads=threads)
        if facts["precision"] != "bf16":
            return found
        return with_task_parity(found, [self._task(opening, self.float_quality()), at_tiles], "float network")

    def _task(self, opening: Opening, reference: QualityResult) -> Task:
        return Task(self.quality(opening).psnr, reference.psnr, "calibrate", "image")

    def _fake_quantized(self, source: Source, tile: tuple[int, int]) -> QualityResult:
        """Quality of a Q/DQ file in an artifact's tiles: global pooling makes another image of every other cut."""
        key = ("plain", source, *map(str, tile))
        if key not in self._quality:
            with OnnxSession(source_file(self.folder, source), optimise=False) as session:
                restorer = restorer_of(session, self.folder.size_multiple, self.receptive, tile)
                self._quality[key] = evaluate(restorer, self.source)
        return self._quality[key]

    def _differences(self, attempt: Attempt) -> list[str]:
        """Parameters that an int8 artifact has otherwise than the network: read by its backend, or from its Q/DQ nodes."""
        built = _built(attempt)
        found = self.runtimes.call(str(built.facts["backend"]), differences, attempt.plan.use, built, self.folder.path)
        return qdq_differences(built.path, self.folder) if found is None else list(found)

    def _threads(self, attempt: Attempt) -> int:
        """Threads for this machine: the candidate's where it is the target, no more than its cores where it stands in for a board."""
        return attempt.plan.threads if self.target.is_host else min(attempt.plan.threads, cores())

    def _estimate(self, attempt: Attempt) -> Measurement:
        height, width = frame_of(self.target, self.folder.size_multiple)
        layers = artifact_layers(self.reference(attempt), height, width, _built(attempt).facts["float_precision"])
        found = estimate(layers, rates_of(self.target, attempt.plan.runs_on, attempt.plan.threads), backend=attempt.plan.use)
        conditions = {
            "frame": f"{self.target.frame.width}x{self.target.frame.height}",
            "target": self.target.name,
            "runs_on": attempt.plan.runs_on,
            **({"threads": attempt.plan.threads} if attempt.plan.runs_on == "cpu" else {}),
            "model": found.model,
            "bounds_ms": {k: round(v, 3) for k, v in sorted(found.by_bound().items())},
        }
        return Measurement("latency_p50", found.ms, "ms", Better.LOWER, 1, Evidence.ESTIMATED, conditions)

    def _device(self, attempt: Attempt) -> str:
        return self.target.gpu.name if attempt.plan.runs_on == "gpu" and self.target.gpu else self.target.cpu.mcpu


def choose(judged: Sequence[Judged], limits: Limits) -> Judged | None:
    """Pick the fastest candidate for the target that passes; where none is proven, the fastest that is unproven.

    Args:
        judged: candidates for the target.
        limits: what they may lose, and how large they may be.

    """
    for verdict in (Verdict.PASSED, Verdict.UNPROVEN):
        good = [j for j in judged if j.parity.verdict is verdict and not limits.fault(j.quality, j.mb) and j.time_ms > 0]
        if good:
            return min(good, key=lambda j: (j.time_ms, j.mb, j.attempt.plan.name))
    return None


def _built(attempt: Attempt) -> Any:
    return attempt.built


def _stand_in(opening: Opening) -> dict[str, str]:
    return {"runtime": "onnxruntime on the same network"} if opening.stands_in else {}


def _nothing(images: int) -> QualityResult:
    """Quality of what does not run."""
    return QualityResult(("",) * images, *((math.nan,) * images for _ in range(3)))
