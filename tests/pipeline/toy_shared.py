"""A stage for tests that all of torchrun's processes run; each may come to an end of its own."""

from __future__ import annotations

import os
import signal
import time

from pydantic import BaseModel, ConfigDict

from pipeline.contract import Kind, Output, StageContext, StageResult, StageSpec
from pipeline.errors import UsageError


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    end: str = "well"


def run(ctx: StageContext) -> StageResult:
    rank, end = os.environ.get("RANK", "0"), ctx.config.end
    if end == "refused by all":
        raise UsageError("shared", "refused", "try again")
    if end == "error":
        meet_all(rank)
        raise ValueError(f"out of luck in {rank}")
    if end == "killed" and rank == "0":
        time.sleep(600)
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    path = ctx.workdir / f"rank{rank}.txt"
    path.write_text("".join(a.path.read_text() for a in ctx.inputs.values()))
    if rank != "0":
        time.sleep(1)
        path.read_text()  # the first has not gone on and cleared the workdir
        return StageResult({})
    return StageResult({"model": Output(Kind.CHECKPOINT, path)}, notes=[path.name for path in ctx.workdir.iterdir()])


def meet_all(rank: str) -> None:
    """Open the process group; the first process then waits in it for the others, which do not come."""
    from torch import distributed

    distributed.init_process_group("gloo")
    if rank == "0":
        distributed.barrier()


STAGE = StageSpec(run=run, config=Config, consumes={"model": Kind.CHECKPOINT}, produces={"model": Kind.CHECKPOINT}, ranks="all")
