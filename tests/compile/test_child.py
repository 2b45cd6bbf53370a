from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compile.child import Child, ChildDied, Runtimes
from pipeline.errors import StageFailed, UsageError
from tests.compile.natives import works


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    made = Child("it", tmp_path / "logs" / "child.log")
    yield made
    made.close()


def test_it_calls_functions_in_another_process(child: Child):
    assert child.call(works.double, 21) == 42
    first, second = child.call(works.count), child.call(works.count)
    assert (first[0], second[0]) == (1, 2)
    assert first[1] == second[1] != os.getpid()


def test_errors_of_ours_travel_and_the_process_goes_on(child: Child):
    with pytest.raises(UsageError) as caught:
        child.call(works.refuse)
    assert str(caught.value) == "here: 'x' is wrong\nhint: take y"
    assert child.call(works.double, 1) == 2


def test_a_crash_is_an_error_that_names_the_signal(child: Child, tmp_path: Path):
    with pytest.raises(ChildDied, match=r"it: its process was killed by SIGSEGV") as caught:
        child.call(works.crash)
    assert isinstance(caught.value, StageFailed)
    assert caught.value.hint == f"look at {tmp_path / 'logs' / 'child.log'}"
    log = (tmp_path / "logs" / "child.log").read_text()
    assert "Segmentation fault" in log
    assert "in crash" in log, "the Python stack of a crash is kept"
    with pytest.raises(ChildDied, match="SIGSEGV"):
        child.call(works.double, 1)


def test_any_other_exception_ends_it_with_the_traceback_in_the_log(child: Child, tmp_path: Path):
    with pytest.raises(ChildDied, match=r"its process ended \(ValueError: conv 7 has no kernel\)"):
        child.call(works.fail)
    assert "Traceback" in (tmp_path / "logs" / "child.log").read_text()


def test_what_native_code_prints_goes_to_the_log(child: Child, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    child.call(works.say, b"native\n")
    assert capfd.readouterr() == ("", "")
    log = (tmp_path / "logs" / "child.log").read_text()
    assert log.count("native\n") == 2
    assert "python\n" in log


def test_closing_ends_a_busy_process_at_once(child: Child):
    child.send(works.sleep)
    start = time.monotonic()
    child.close()
    assert time.monotonic() - start < 5


def test_runtimes_have_a_process_each_and_a_new_one_after_a_crash(tmp_path: Path):
    with Runtimes(tmp_path) as runtimes:
        one, other, again = (runtimes.call(use, works.count) for use in ("one", "other", "one"))
        assert (one[0], other[0], again[0]) == (1, 1, 2)
        assert one[1] == again[1] != other[1]
        with pytest.raises(ChildDied, match="one: its process was killed by SIGSEGV"):
            runtimes.call("one", works.crash)
        assert runtimes.call("one", works.count)[0] == 1
        assert runtimes.call("other", works.count)[0] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.log", "other.log"]
