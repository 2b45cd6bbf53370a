"""Under torchrun: finds out which process this is, and brings all of them to the same end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from pipeline.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, PipelineError, StageFailed
from pipeline.processes import place
from pipeline.ranks import Follower, Leader, Solo

MEETING = timedelta(minutes=5)
"""Time for all processes to arrive."""


@contextlib.contextmanager
def crew() -> Iterator[Solo | Leader | Follower]:
    """What the process does in the run, for the whole of it. A follower leaves the block with SystemExit, whatever happened to it.

    Raises:
        StageFailed: the other processes did not come.
    """
    rank, world = place()
    if world == 1:
        yield Solo()
    elif rank == 0:
        with _leading(Leader(_store(), world)) as leader:
            yield leader
    else:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the terminal interrupts all; the leader alone says so
        with _following(rank) as follower:
            yield follower


@contextlib.contextmanager
def _leading(leader: Leader) -> Iterator[Leader]:
    code = EXIT_BUG
    try:
        yield leader
        code = EXIT_OK
    except PipelineError as e:
        code = e.exit_code
        raise
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
        raise
    finally:
        leader.end(code)


@contextlib.contextmanager
def _following(rank: int) -> Iterator[Follower]:
    try:
        follower = Follower(_store(), rank)
        try:
            yield follower
        except PipelineError as e:
            follower.fail(e)
        except Exception as e:  # noqa: BLE001 - the leader says it, for all
            follower.fail(StageFailed(f"process {rank}", f"{type(e).__name__}: {e}", "run without torchrun to see where it comes from"))
        code = follower.leave()
    except (RuntimeError, StageFailed):  # the store is gone, and with it the leader, which has said why
        code = StageFailed.exit_code
    raise SystemExit(code)


def _store() -> Any:
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed import DistError
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", timeout=MEETING))
    except DistError as e:
        raise StageFailed("torchrun", f"its processes do not find each other ({e})", "see that all machines reach the first one") from e
    return PrefixStore(f"pipeline/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
