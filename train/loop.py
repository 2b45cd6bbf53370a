"""The one training loop, on Lightning Fabric.

A step is a pure function of the weights, the optimizer's state and the step's number: batches, random numbers and learning rate
follow from the number. So a checkpoint needs nothing else to go on exactly, and any number of processes computes the same steps.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.contract import Progress
from pipeline.errors import StageFailed, UsageError
from train import state
from train.adversary import Adversary, CriticTraining
from train.batches import CropSource, IndexPlan, batches, worker_count
from train.config import TrainConfig
from train.determinism import deterministic, seeded, set_seeds
from train.ema import Ema
from train.gradients import clip, clipped_alone, may_overflow, scaler_of
from train.job import FitReport, Job, Validate
from train.launch import launch
from train.logs import TrainingLog, running_means
from train.phases import phases
from train.schedule import learning_rate
from train.step import LossFn, StepModule, compiled, lay_out, make_optimizer, set_lr

if TYPE_CHECKING:
    from lightning.fabric import Fabric

CHECKPOINT_SHARE = 50
"""A checkpoint that took t seconds to write is followed by at least this many times t without one."""


def fit(
    network: nn.Module,
    loss_fn: LossFn,
    dataset: CropSource,
    config: TrainConfig,
    workdir: Path,
    progress: Progress,
    *,
    label: str,
    extra_modules: Sequence[nn.Module] = (),
    validate: Validate | None = None,
    validate_steps: int = 0,
    lr_scale: Mapping[str, float] | None = None,
    adversary: Adversary | None = None,
) -> FitReport:
    """Train ``network`` in place, going on from ``workdir`` where an earlier call was interrupted; a finished one is only reloaded.

    The same call gives the same weights, bit for bit, on the same machine, however often it was interrupted.

    Args:
        network: what is trained; afterwards on the CPU, in eval mode, holding the averaged weights when ``config.ema`` is set.
        loss_fn: the loss (``train.step.LossFn``).
        dataset: ``[k]`` for k below ``train.phases.samples(config)``.
        config: settings.
        workdir: keeps checkpoint.pt and tensorboard/.
        progress: told of steps, loss and learning rate.
        label: names the training in progress, logs and errors.
        extra_modules: modules of the loss that are trained as well.
        validate: called every ``validate_steps`` steps; its scalars are logged.
        validate_steps: 0 never validates.
        lr_scale: glob pattern over parameter names ("network.…", "extras.<i>.…") -> factor on the learning rate.
        adversary: a critic that is trained beside the network (``train.adversary``); afterwards on the CPU, in eval mode.

    Raises:
        StageFailed: the loss or the gradient is not finite; names the step.
        UsageError: the batch cannot be shared equally by the processes, or settings that do not fit the network or the machine.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    extras, scales = tuple(extra_modules), lr_scale or {}
    job = Job(network, loss_fn, dataset, config, workdir, label, extras, validate, validate_steps, scales, adversary)
    report = _reload(job, progress)
    if report is None:
        report = launch(train, job, progress)
        if report is None:  # trained in processes of its own
            report = _reload(job, progress)
    if report is None:
        raise StageFailed(label, "training ended without a finished checkpoint", f"look for errors of its processes; state is in {workdir}")
    return report


def train(fabric: Fabric, job: Job, progress: Progress) -> FitReport:
    """Train in this process, one of ``fabric.world_size``."""
    with deterministic(job.config.deterministic), seeded(job.config.seed or 0):
        report = _Training(fabric, job, progress).run()
    fabric.barrier()
    if not fabric.is_global_zero:  # running statistics differ between processes: the first one's are the result
        _reload(job, progress)
    return report


class _Training:
    """A training in progress."""

    def __init__(self, fabric: Fabric, job: Job, progress: Progress) -> None:
        self.fabric, self.job, self.progress, self.config = fabric, job, progress, job.config
        self.layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        self.step_module = StepModule(job.network, job.extras, job.loss_fn).train()
        lay_out(self.step_module, self.layout)
        self.clipped = clipped_alone(self.step_module, self.config, job.label)
        fused = scaler_of(fabric) is None  # scaled gradients are clipped before the optimizer's step, which then must not unscale them
        self.optimizer = make_optimizer(self.step_module, self.config, job.lr_scale, fused)
        stepped = compiled(self.step_module, fabric.device, job.label) if self.config.compile else self.step_module
        self.wrapped, self.fabric_optimizer = fabric.setup(stepped, self.optimizer)
        self.critic = CriticTraining(job.adversary, fabric, self.layout) if job.adversary is not None else None
        self.ema = Ema(self.step_module, self.config.ema) if self.config.ema else None
        self.done, self.seconds, self.waited, self.means = 0, 0.0, 0.0, dict[str, float]()
        self.fingerprint = job.fingerprint()
        self._resume()
        self.first = self.done
        self.saved_at, self.save_took = time.monotonic(), 0.0

    def run(self) -> FitReport:
        config, job = self.config, self.job
        log = TrainingLog(job.workdir, self.progress, job.label, config.steps, self.first, config.log_steps, self.fabric.is_global_zero)
        with log, contextlib.closing(self._batches()) as parts:
            while self.done < config.steps:
                begin = time.monotonic()
                scalars = self._step(parts)
                self.done += 1
                self.seconds += time.monotonic() - begin
                self.means = running_means(self.means, scalars, self.done)
                log.step(self.done, scalars, self.means)
                self._validate(log)
                self._save_when_due()
        return self._finish()

    def _step(self, parts: Iterator[tuple[Tensor, ...]]) -> dict[str, float]:
        config, lr = self.config, learning_rate(self.done, self.config)
        set_lr(self.optimizer, lr)
        batch: Iterable[tuple[Tensor, ...]] = (self._next(parts) for _ in range(config.accumulate))
        of_critic: dict[str, float] = {}
        if self.critic is not None:
            batch = list(batch)
            of_critic = self.critic.step(
                self.job.network, [(lq, gt) for lq, gt, *_ in batch], lr / config.lr, (config.seed or 0, self.done)
            )
            rate = f"the adversary's lr is {self.critic.adversary.lr:g}"
            self._require_finite("the critic's loss", of_critic["critic_loss"], of_critic["critic_norm"], rate)
        sums = self._backward(batch)
        norm = clip(self.fabric, self.wrapped, self.fabric_optimizer, config, self.clipped)
        rate = f"train.lr is {config.lr:g}, here {lr:.2g}"
        self._require_finite("loss", sums["loss"], 0.0 if may_overflow(self.fabric) else norm, rate)
        self.fabric_optimizer.step()
        self.fabric_optimizer.zero_grad()
        if self.ema:
            self.ema.update(self.done + 1)
        return {**sums, "lr": lr, **of_critic}

    def _backward(self, batch: Iterable[tuple[Tensor, ...]]) -> dict[str, float]:
        """Add up the gradients of all parts; the loss and its scalars, means over the parts."""
        sums: dict[str, float] = {}
        parts = self.config.accumulate
        for part, sample in enumerate(batch):
            set_seeds(self.config.seed or 0, self.done, part, self.fabric.global_rank)
            with self.fabric.no_backward_sync(self.wrapped, enabled=part < parts - 1):
                with self.critic.frozen() if self.critic else contextlib.nullcontext():
                    loss, scalars = self.wrapped(*sample)
                self.fabric.backward(loss / parts)
            for name, value in {"loss": loss, **scalars}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / parts
        return sums

    def _next(self, parts: Iterator[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        begin = time.monotonic()
        batch = next(parts)
        self.waited += time.monotonic() - begin
        device = self.fabric.device
        return tuple(t.to(device, memory_format=self.layout, non_blocking=True) for t in batch)

    def _require_finite(self, name: str, loss: float, norm: float, rate: str) -> None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"{name} is {loss:g} and the gradient's norm {norm:g} in step {self.done} of {self.config.steps}"
            raise StageFailed(self.job.label, what, f"lower its learning rate ({rate})")

    def _batches(self) -> Any:
        config, world = self.config, self.fabric.world_size
        start, *later = phases(config)
        for batch in (start.batch, *(phase.batch for phase in later)):
            if batch % (world * config.accumulate):
                what = f"batch {batch} cannot be shared by {world} processes in {config.accumulate} parts each"
                raise UsageError(f"{self.job.label}: train.batch", what, f"make it a multiple of {world * config.accumulate}")
        on_gpu = self.fabric.device.type == "cuda"
        changes = tuple((phase.step, phase.batch) for phase in later)
        plan = IndexPlan(config.steps, start.batch, config.accumulate, self.fabric.global_rank, world, self.done, changes)
        return _closable(batches(self.job.dataset, plan, worker_count(config, on_gpu, world), pin=on_gpu))

    def _validate(self, log: TrainingLog) -> None:
        every, validate = self.job.validate_steps, self.job.validate
        if validate is None or not every or self.done % every or not self.fabric.is_global_zero:
            return
        self.step_module.eval()
        with self.ema.applied() if self.ema else contextlib.nullcontext(), torch.no_grad():
            scalars = validate(self.job.network)
        self.step_module.train()
        log.scalars(self.done, scalars)
        self.progress.log(f"{self.job.label}, step {self.done}: " + ", ".join(f"{n} {v:.4g}" for n, v in scalars.items()))

    def _save_when_due(self) -> None:
        config, age = self.config, time.monotonic() - self.saved_at
        by_step = config.checkpoint_steps and self.done % config.checkpoint_steps == 0
        if by_step or age >= max(config.checkpoint_seconds, CHECKPOINT_SHARE * self.save_took):
            self._save(finished=False)

    def _save(self, finished: bool) -> None:
        if self.fabric.is_global_zero:
            begin = time.monotonic()
            state.write(self.job.checkpoint, self._payload(finished))
            self.save_took = time.monotonic() - begin
        self.saved_at = time.monotonic()

    def _payload(self, finished: bool) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "finished": finished,
            "done": self.done,
            "seconds": self.seconds,
            "waited": self.waited,
            "means": self.means,
            "weights": self.step_module.state_dict(),
            "optimizer": None if finished else self.optimizer.state_dict(),
            "ema": self.ema.average if self.ema and not finished else None,
            "critic": self.critic.state(finished) if self.critic else None,
            "precision": self.fabric.strategy.precision.state_dict(),
        }

    def _resume(self) -> None:
        payload, reason = state.read(self.job.checkpoint, self.fingerprint)
        if payload is None:
            if reason:
                self.progress.log(f"{self.job.label}: {reason}")
            return
        self.step_module.load_state_dict(payload["weights"])
        self.optimizer.load_state_dict(payload["optimizer"])
        if self.ema:
            self.ema.load(payload["ema"])
        if self.critic:
            self.critic.load(payload["critic"])
        self.fabric.strategy.precision.load_state_dict(payload["precision"])
        self.done, self.seconds, self.waited = payload["done"], payload["seconds"], payload["waited"]
        self.means = payload["means"]
        self.progress.log(f"{self.job.label}: resumed at step {self.done} of {self.config.steps}")

    def _finish(self) -> FitReport:
        if self.ema:
            self.ema.apply()
        _rest(self.job)
        self._save(finished=True)
        return _report(self._payload(finished=True), self.first)


def _reload(job: Job, progress: Progress) -> FitReport | None:
    """Load a finished training, or None when there is none."""
    payload, _ = state.read(job.checkpoint, job.fingerprint())
    if payload is None or not payload["finished"]:
        return None
    StepModule(job.network, job.extras, job.loss_fn).load_state_dict(payload["weights"])
    if job.adversary is not None:
        job.adversary.critic.load_state_dict(payload["critic"]["weights"])
    _rest(job)
    progress.log(f"{job.label}: already trained ({payload['done']} steps)")
    return _report(payload, payload["done"])


def _rest(job: Job) -> None:
    for module in (job.network, *job.extras, *([job.adversary.critic] if job.adversary is not None else [])):
        lay_out(module.to("cpu"), torch.contiguous_format)
        module.eval()


def _report(payload: Mapping[str, Any], first: int) -> FitReport:
    seconds = payload["seconds"]
    return FitReport(payload["done"], seconds, payload["means"], payload["waited"] / seconds if seconds else 0.0, first)


def _closable(items: Iterator[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    yield from items
