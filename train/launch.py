"""Processes: one on a CPU, one per GPU of this machine, or those that torchrun started."""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from pipeline.contract import Progress
from pipeline.errors import PipelineError, UsageError
from train.config import TrainConfig
from train.job import FitReport, Job

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Train = Callable[["Fabric", Job, Progress], FitReport]


def launch(train: Train, job: Job, progress: Progress) -> FitReport | None:
    """Run ``train`` in as many processes as the machine or torchrun gives.

    Returns:
        Its report, or None when it ran in processes of its own: the weights are then in the job's checkpoint, not in its network.
    """
    fabric = make_fabric(job.config)
    if under_torchrun() or fabric.world_size == 1:
        fabric.launch()
        return train(fabric, job, progress)
    with _relay(progress) as remote:
        child: Callable[..., None] = _child
        fabric.launch(child, train, pickle.dumps(job), remote)  # bytes: weights handed over as objects would be shared memory
    return None


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def make_fabric(config: TrainConfig) -> Fabric:
    """A Fabric over the devices that ``config`` asks for.

    Raises:
        UsageError: a precision that this machine's devices do not have.
    """
    from lightning.fabric import Fabric

    precision = resolve_precision(config)
    if precision == "16-mixed" and not torch.cuda.is_available():
        raise UsageError("train.amp", "16-mixed needs a GPU, and there is none", "use bf16-mixed, which CPUs have too, or auto")
    if under_torchrun():
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        return Fabric(devices=local, num_nodes=world // local, strategy="ddp" if world > 1 else "auto", precision=precision)
    count = config.devices if config.devices != "auto" else max(1, torch.cuda.device_count())
    return Fabric(devices=count, strategy="ddp_spawn" if count > 1 else "auto", precision=precision)


def resolve_precision(config: TrainConfig) -> Any:
    """``config.amp``, with auto decided: bf16-mixed on a GPU whose hardware has it, else 32-true."""
    if config.amp != "auto":
        return config.amp
    has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if has_bf16 else "32-true"


def _child(fabric: Fabric, train: Train, job: bytes, remote: _Remote) -> None:
    try:
        train(fabric, pickle.loads(job), remote)
    except PipelineError as e:
        remote.fail(e)
        raise  # so that the other processes are ended, too


class _Remote:
    """A Progress that speaks to the parent process through a queue."""

    def __init__(self, messages: Any) -> None:
        self.messages = messages

    def __enter__(self) -> _Remote:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Do nothing: the parent closes its own."""

    def log(self, text: str) -> None:
        """As Progress.log."""
        self.messages.put(("log", (text,), {}))

    def update(self, label: str, done: int, total: int, **scalars: float) -> None:
        """As Progress.update."""
        self.messages.put(("update", (label, done, total), scalars))

    def fail(self, error: PipelineError) -> None:
        """Let the parent raise ``error``."""
        self.messages.put(("fail", (error,), {}))


@contextlib.contextmanager
def _relay(progress: Progress) -> Iterator[_Remote]:
    """A remote end of ``progress`` for child processes; what they failed with is raised at the end of the block."""
    messages = torch.multiprocessing.get_context("spawn").SimpleQueue()
    errors: list[PipelineError] = []
    thread = threading.Thread(target=_pass_on, args=(messages, progress, errors), name="progress", daemon=True)
    thread.start()
    try:
        yield _Remote(messages)
    except ProcessRaisedException:
        _end(messages, thread)
        if errors:
            raise errors[0] from None
        raise
    finally:
        _end(messages, thread)


def _end(messages: Any, thread: threading.Thread) -> None:
    if thread.is_alive():
        messages.put(None)
        thread.join()


def _pass_on(messages: Any, progress: Progress, errors: list[PipelineError]) -> None:
    while (message := messages.get()) is not None:
        method, args, scalars = message
        if method == "fail":
            errors.append(args[0])
        else:
            getattr(progress, method)(*args, **scalars)
