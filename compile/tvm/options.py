"""What a target file or a stage may say of this backend under ``options``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from compile.tvm.records import Asked, Search
from pipeline.yamlfile import validate
from targets.emulate.sysroot import cache_folder


class TuneOptions(BaseModel):
    """Measuring before a build: tile sizes, and the schedules of operators that no kernel fits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: int = Field(default=200, ge=1, description="kernels to measure at most; those on record cost nothing")
    rpc: str = Field(default="", description="host:port/key of a TVM RPC tracker and a board there; empty measures on this machine")
    records: Path = Field(default_factory=lambda: cache_folder() / "tvm-records", description="folder of the records, kept between runs")

    @field_validator("rpc")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and re.fullmatch(r"[^:/\s]+:\d+/\S+", value) is None:
            raise ValueError("must be host:port/key, e.g. 192.168.1.2:9190/pi5")
        return value


class TvmOptions(BaseModel):
    """Options of the backend."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tune: TuneOptions | None = Field(default=None, description="measure tile sizes; without it those that come with the package are taken")
    searches: int = Field(default=32, ge=1, description="schedules that are tried for an operator that neither kernel nor rule fits")
    search_seconds: float = Field(
        default=60, gt=0, description="time for all those operators of a network; each gets one schedule at least"
    )

    def search(self) -> Search:
        """How schedules are searched for: where tile sizes are measured, and on record beside them."""
        where = self.tune or TuneOptions()
        return Search(Asked(self.searches, self.search_seconds), where.records, where.rpc)


def options_of(given: Mapping[str, Any]) -> TvmOptions:
    """Checked options; raises UsageError that names the wrong one."""
    return validate(TvmOptions, dict(given), "target", "backends.tvm.options")
