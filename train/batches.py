"""Batches as a pure function of the step: the same crops for any number of processes, and nothing to save for a resume."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from pipeline.errors import PipelineError
from train.config import TrainConfig

Sample = tuple[NDArray[Any], ...]
"""(lq, gt), float32 [3, crop, crop] in [0, 1], and whatever else the loss is to be given, [C, H, W] each."""
_END = object()


class CropSource(Protocol):
    """A map-style data set: ``[k]`` gives (lq, gt) and perhaps more (``Sample``), the same for the same k every time.

    The crop is that of the phase (``train.phases``) which k falls into.
    """

    def __getitem__(self, index: int, /) -> Sample:
        """Sample ``index``; any index below the number of the training's samples (``train.phases``) may be asked for."""


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """Which samples process ``rank`` of ``world`` sees: sample k = samples before the step + (part × world + rank) × size + i.

    Iterating gives one list of indices per accumulated part, from step ``first`` to the last. ``later`` holds, in order, the steps from
    which on the batch is another: (step, batch).
    """

    steps: int
    batch: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1
    first: int = 0
    later: tuple[tuple[int, int], ...] = ()

    def at(self, step: int) -> tuple[int, int]:
        """The first sample of ``step``, and how many samples it takes over all processes and parts."""
        begin, sample, batch = 0, 0, self.batch
        for next_begin, next_batch in self.later:
            if step < next_begin:
                break
            sample += (next_begin - begin) * batch
            begin, batch = next_begin, next_batch
        return sample + (step - begin) * batch, batch

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.steps):
            sample, batch = self.at(step)
            size = batch // (self.accumulate * self.world)
            for part in range(self.accumulate):
                start = sample + (part * self.world + self.rank) * size
                yield list(range(start, start + size))


def worker_count(config: TrainConfig, on_gpu: bool, world: int) -> int:
    """Data processes for this process: as configured, or none on a CPU with up to two cores, else up to eight."""
    if config.workers != "auto":
        return config.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not on_gpu and cores <= 2:
        return 0
    return max(1, min(8, cores // world))


def batches(dataset: CropSource, plan: IndexPlan, workers: int, pin: bool = False) -> Iterator[tuple[Tensor, ...]]:
    """The parts of ``plan`` as (lq, gt), float32 [size, 3, H, W], and what else the samples hold, prepared ahead of the consumer.

    Args:
        dataset: where the samples come from; picklable if ``workers`` is not 0 and the platform spawns processes.
        plan: the indices, in order.
        workers: data processes; 0 prepares in one background thread.
        pin: page-locked memory, for copies to a GPU.
    """
    loader: DataLoader[Any] = DataLoader(
        _Guarded(dataset),  # type: ignore[arg-type]  # any object with __getitem__ works
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=_stack,
        pin_memory=pin,
        generator=torch.Generator(),  # else starting the loader would draw from the global generator
    )
    for batch in loader if workers else prefetch(loader):
        if isinstance(batch, PipelineError):
            raise batch
        yield batch


class _Guarded:
    """Hands on a user's error as a sample: raised in a data process it would arrive as text."""

    def __init__(self, dataset: CropSource) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Sample | PipelineError:
        try:
            return self.dataset[index]
        except PipelineError as e:
            return e


def _stack(samples: Sequence[Sample | PipelineError]) -> tuple[Tensor, ...] | PipelineError:
    for sample in samples:
        if isinstance(sample, PipelineError):
            return sample
    batch = tuple(torch.from_numpy(np.stack(images)) for images in zip(*samples, strict=True))
    if get_worker_info() is not None:  # shared memory, as the default collate function does
        return tuple(t.share_memory_() for t in batch)  # type: ignore[no-untyped-call]
    return batch


def prefetch(items: Iterable[Any], depth: int = 2) -> Iterator[Any]:
    """Iterate over ``items`` in a background thread that stays up to ``depth`` items ahead; its exceptions are raised here."""
    ready: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, ready, stop), name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def _fill(items: Iterable[Any], ready: queue.Queue[Any], stop: threading.Event) -> None:
    try:
        for item in items:
            if not _offer(item, ready, stop):
                return
    except BaseException as e:  # noqa: BLE001 - handed to the consumer, which raises it
        _offer(e, ready, stop)
    else:
        _offer(_END, ready, stop)


def _offer(item: Any, ready: queue.Queue[Any], stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
