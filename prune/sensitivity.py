"""What each group of channels costs and saves: the exchange table of dB against milliseconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from eval.cost import count_macs
from pipeline.contract import Evidence, PairSource, Progress
from prune.clock import NOISE, Clock, Saved
from prune.config import SensitivityConfig
from prune.groups import Graph, Group, Scores, cut
from prune.quality import Reference
from prune.recentre import middles, recentre
from prune.shrink import rounded

CHUNK = 16
"""Networks that are timed together; more would only take memory."""
LEAST = 2e-3
"""Share of the whole time below which a group saves nothing."""


@dataclass(frozen=True, slots=True)
class Level:
    """A group with ``removed`` channels less: what is lost in dB, and ms and G MACs (at 3x256x256) saved.

    psnr_drop  PSNR lost against the sharp images: what it is, on few images hardly more than noise, and of either sign
    psnr_risk  PSNR lost if all that changes in the output were error; never negative, and what decides
    """

    removed: int
    psnr_drop: float
    psnr_risk: float
    ms_saved: float
    macs_saved: float


@dataclass(frozen=True, slots=True)
class Price:
    """A group's levels, the mildest first; none where it is too narrow to lose any."""

    group: str
    width: int
    layers: tuple[str, ...]
    levels: tuple[Level, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """All groups, with what the whole network reaches and costs: dB, ms of one frame, G MACs. ``evidence`` is that of ms.

    unstable  share of its time by which the network differed from itself on this host, whose timings were therefore not used
    """

    prices: tuple[Price, ...]
    psnr: float
    ms: float
    macs: float
    evidence: str
    conditions: dict[str, Any]
    images: int
    unstable: float | None = None

    def write(self, path: Path, fingerprint: str) -> None:
        """As JSON, whole or not at all."""
        write_json(path, {"fingerprint": fingerprint, **asdict(self)})

    @classmethod
    def read(cls, path: Path, fingerprint: str) -> Table | None:
        """What an earlier run of the stage wrote, or None when there is none under these settings."""
        if not path.is_file():
            return None
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("fingerprint") != fingerprint:
            return None
        prices = [
            Price(p["group"], p["width"], tuple(p["layers"]), tuple(Level(**level) for level in p["levels"])) for p in raw.pop("prices")
        ]
        return cls(tuple(prices), **raw)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A JSON file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def fingerprint(*parts: object) -> str:
    """64 hex digits over whatever decides a table."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def measure_table(
    network: nn.Module, scores: Scores, source: PairSource, clock: Clock, config: SensitivityConfig, multiple: int, progress: Progress
) -> Table:
    """Remove channels from one group at a time, put the means back, and see what is lost and saved.

    Args:
        network: the stage's input.
        scores: the channels with the lowest go.
        source: images for PSNR.
        clock: whose milliseconds.
        config: how many images and levels.
        multiple: widths are multiples of this.
        progress: told of the groups.
    """
    lq, gt = middles(source, config.images, network, config.side)
    reference, macs = Reference(network, lq, gt), count_macs(network) / 1e9
    groups = Graph(network).groups
    levels = config.levels or (1 if clock.evidence is Evidence.ESTIMATED else 2)
    wanted = [(g, width) for g in groups for width in _level_widths(g, config.share, levels, multiple)]
    found: dict[str, list[Level]] = {g.name: [] for g in groups}
    saved, clock, unstable = _milliseconds(network, scores, wanted, clock, progress)
    for done, (group, width) in enumerate(wanted, 1):
        pruned, kept = cut(network, {group.name: width}, scores)
        recentre(pruned, network, kept, lq)
        removed = macs - count_macs(pruned) / 1e9
        found[group.name].append(Level(group.width - width, *reference.lost(pruned), saved.ms[f"{group.name}-{width}"], removed))
        progress.update("prune: sensitivity", done, len(wanted))
    prices = tuple(Price(g.name, g.width, g.layers, tuple(found[g.name])) for g in groups)
    return Table(prices, reference.psnr, saved.base, macs, clock.evidence.value, dict(clock.conditions), len(lq), unstable)


def _milliseconds(
    network: nn.Module, scores: Scores, wanted: Sequence[tuple[Group, int]], clock: Clock, progress: Progress
) -> tuple[Saved, Clock, float | None]:
    """What each cut saves, by which clock, and by how much the first one's times were off where another had to stand in."""
    base_ms, ms = [], {}
    for chunk in _chunks(wanted):
        saved = clock.saved(network, {f"{group.name}-{width}": cut(network, {group.name: width}, scores)[0] for group, width in chunk})
        other = clock if saved.stable else clock.stand_in(saved.base)
        if other is not clock:
            progress.log(f"prune: {words_of_noise(saved.noise)}; sensitivity goes by {_model_of(other.conditions)}")
            return _milliseconds(network, scores, wanted, other, progress)[0], other, saved.noise
        base_ms.append(saved.base)
        ms.update(saved.ms)
    base = float(np.median(base_ms)) if base_ms else clock.saved(network, {}).base
    return Saved(base, ms), clock, None


def words_of_noise(noise: float) -> str:
    """That this host's timings were of no use."""
    return f"timings on this host were unstable (off by {noise:.1%} on the same network, {NOISE:.0%} is allowed)"


def _model_of(conditions: Mapping[str, Any]) -> str:
    on = f" of {conditions['backend']} {conditions['precision']}" if "backend" in conditions else ""
    return f"the estimate {conditions['model']}{on}"


def summary(table: Table, count: int = 3) -> str:
    """One line: what a millisecond costs in the cheapest and the dearest groups."""
    rows = [(p.group, level) for p in table.prices for level in p.levels[:1]]
    paying = [row for row in rows if row[1].ms_saved > LEAST * table.ms]
    paying.sort(key=lambda row: row[1].psnr_risk / row[1].ms_saved)
    cheap, dear = paying[:count], paying[max(count, len(paying) - count) :]
    said = [f"; {title} {', '.join(_words(*row) for row in part)}" for title, part in (("cheapest", cheap), ("dearest", dear)) if part]
    nothing = f"; {len(rows) - len(paying)} save nothing" if len(rows) > len(paying) else ""
    return f"sensitivity of {len(rows)} groups, {table.psnr:.2f} dB in {table.ms:.2f} ms {_whose(table)}{''.join(said)}{nothing}"


def _words(group: str, level: Level) -> str:
    return f"{group} {level.removed} channels {level.psnr_risk:.3f} dB for {level.ms_saved:.2f} ms"


def _whose(table: Table) -> str:
    if table.unstable is not None:
        return f"by {_model_of(table.conditions)}, for {words_of_noise(table.unstable)}"
    return "estimated for the target" if table.evidence == "estimated" else "measured on this host"


def _level_widths(group: Group, share: float, levels: int, multiple: int) -> list[int]:
    """The widths to try, wide first, without repetition; at least one multiple goes where the group has two."""
    if group.width <= multiple:
        return []
    found = (rounded(group.width, group.width * min(0.95, share * i), multiple) for i in range(1, levels + 1))
    return sorted({w for w in found if w < group.width}, reverse=True)


def _chunks(items: Sequence[tuple[Group, int]]) -> Iterator[list[tuple[Group, int]]]:
    rest = iter(items)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk
