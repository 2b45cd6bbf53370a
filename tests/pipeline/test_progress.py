from __future__ import annotations

import math
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline.contract import Progress
from pipeline.progress import StageProgress
from pipeline.reading import Meter, clock_text


class Bench:
    """A progress on a recorded console with a clock that the test turns."""

    def __init__(self, tmp_path: Path, *, terminal: bool = False, **options: Any) -> None:
        self.now, self.out, self.events = 100.0, StringIO(), list[dict[str, Any]]()
        self.log_file = tmp_path / "log.txt"
        console = Console(file=self.out, force_terminal=terminal, width=100, color_system=None)
        self.progress = StageProgress("[2/6] distill", self.log_file, self.event, console=console, clock=lambda: self.now, **options)

    def event(self, kind: str, **fields: Any) -> None:
        self.events.append({"event": kind, **fields})

    def steps(self, count: int, seconds: float, label: str = "train", start: int = 0, total: int = 1000) -> None:
        for i in range(start, start + count):
            self.progress.update(label, i, total, loss=0.5)
            self.now += seconds

    @property
    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()

    @property
    def logged(self) -> list[str]:
        return self.log_file.read_text().splitlines()


def test_it_is_the_contracts_progress(tmp_path: Path) -> None:
    progress: Progress = Bench(tmp_path).progress
    progress.log("hello")


def test_plain_lines_come_at_most_every_ten_seconds(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.steps(100, 0.5)
    assert len(bench.lines) == 4
    assert bench.lines[0] == "[2/6] distill train 20/1000 (2 %), 2.0/s, 8 min 10 s left, loss 0.5"


def test_a_short_step_prints_nothing_but_is_logged(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.steps(6, 0.1, total=5)
    assert bench.lines == []
    assert len(bench.logged) == 1
    assert bench.logged[0].endswith("train 5/5 (100 %), 10.0/s, loss 0.5")


def test_log_lines_carry_the_time_and_reach_the_terminal_only_when_verbose(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.progress.log("one\ntwo")
    assert [line.split(" ", 2)[2] for line in bench.logged] == ["one", "two"]
    assert all(len(line.split(" ", 2)[0]) == len("2026-03-01") for line in bench.logged)
    assert bench.lines == []
    verbose = Bench(tmp_path, verbose=True)
    verbose.progress.log("three [bold]x")
    assert verbose.lines == ["[2/6] distill three [bold]x"]


def test_quiet_keeps_log_and_events(tmp_path: Path) -> None:
    bench = Bench(tmp_path, quiet=True, verbose=True, terminal=True)
    bench.steps(100, 0.5)
    bench.progress.log("x")
    assert bench.out.getvalue() == ""
    assert len(bench.logged) == 5
    assert bench.events


def test_events_are_throttled_and_hold_the_first_and_last_reading(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.steps(101, 0.1, total=100)
    assert bench.events[0] == {
        "event": "progress", "stage": "[2/6] distill", "label": "train", "done": 0, "total": 100, "scalars": {"loss": 0.5},
    }  # fmt: skip
    assert bench.events[-1]["done"] == 100
    assert len(bench.events) == 6


def test_events_hold_no_nan(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.progress.update("train", 1, 2, loss=math.nan)
    assert bench.events[0]["scalars"] == {"loss": "nan"}


def test_a_terminal_shows_a_bar_that_vanishes_with_the_last_step(tmp_path: Path) -> None:
    bench = Bench(tmp_path, terminal=True)
    bench.steps(5, 0.5)
    bench.progress.close()
    text = bench.out.getvalue()
    assert "[2/6] distill train" in text
    assert "/1000" in text
    assert "\x1b[?25l" in text  # cursor hidden while the bar is there
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_opening_the_next_stage_closes_the_last_ones_bar(tmp_path: Path) -> None:
    first = Bench(tmp_path, terminal=True)
    first.steps(3, 0.5)
    Bench(tmp_path, terminal=True)
    text = first.out.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_a_resumed_step_is_judged_by_what_it_does_now(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.steps(30, 0.5, start=900)
    assert "2.0/s, 40 s left" in bench.lines[0]


def test_the_rate_follows_the_last_half_minute() -> None:
    meter = Meter()
    for second in range(100):
        meter.read(float(second), "x", second, 10_000, {})
    for second in range(100, 200):
        reading = meter.read(float(second), "x", 99 + (second - 99) * 5, 10_000, {})
    assert reading.rate == pytest.approx(5.0)
    assert len(meter.seen) < 40


def test_a_slow_step_shows_seconds_each_and_no_total_needs_no_share() -> None:
    meter = Meter()
    meter.read(0.0, "x", 0, 10, {})
    assert meter.read(5.0, "x", 1, 10, {}).line() == "x 1/10 (10 %), 5.0 s each, 45 s left"
    assert Meter().read(0.0, "x", 3, 0, {}).line() == "x 3/0"


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 10**9)), min_size=1, max_size=40), st.integers(0, 10**9))
def test_any_sequence_of_readings_gives_a_line(readings: list[tuple[float, int]], total: int) -> None:
    meter, now = Meter(), 0.0
    for step, done in readings:
        now += step
        reading = meter.read(now, "x", done, total, {"loss": math.nan})
        assert reading.rate is None or reading.rate > 0
        assert reading.line()


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (45, "45 s"), (155, "2 min 35 s"), (3900, "1 h 5 min")])
def test_clock(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text
