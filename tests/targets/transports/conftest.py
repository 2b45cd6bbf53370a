from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from targets.transports import open_transport
from targets.transports.common import board, line, remote
from targets.transports.common.base import Fetched, Identity, Job, bundle_files, manifest_sha256
from tests.boards.bundle_example import NAME, small_bundle
from tests.targets.transports.plain_sshd import PlainSshd, plain_sshd

QUICK = b"""
import hashlib, json, os, platform, sys, time
print("PASS quick, in", os.getcwd())
time.sleep(float(sys.argv[1]))
with open("MANIFEST.sha256", "rb") as f:
    name = hashlib.sha256(f.read()).hexdigest()
result = {"schema": 2, "bundle_sha256": name, "verified": True, "device": {"machine": platform.machine()}, "started": time.time()}
with open("result.json", "w") as f:
    json.dump(result, f)
print("result.json written")
"""
"""A step that costs next to nothing, for what is not about the benchmark itself; its parameter: seconds to take."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(board, "RETRY_WAITS", (0.05, 0.05, 0.05))
    monkeypatch.setattr(line, "ASK_S", 0.2)
    monkeypatch.setattr(remote, "POLL_S", (0.1, 0.3))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("small") / "bundle", extra={"quick.py": QUICK})


def make_job(bundle: Path, **changes: object) -> Job:
    import json

    facts = json.loads((bundle / "bundle.json").read_text())["artifacts"][0]
    given = {
        **{"bundle": bundle, "files": bundle_files(bundle), "sha256": manifest_sha256(bundle), "artifact": NAME, "facts": facts},
        "steps": (("python", "quick.py", "0"),),
        **{"limit_s": 60.0, "wait_s": 30.0, "seconds": 0.1, "keep": False, "fetch": ("result.json",), "check": lambda identity: None},
    }
    return Job(**{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture
def job(bundle: Path) -> Job:
    return make_job(bundle)


@pytest.fixture(scope="module")
def sshd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainSshd]:
    server = plain_sshd(tmp_path_factory.mktemp("s"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def sshd(sshd_server: PlainSshd, monkeypatch: pytest.MonkeyPatch) -> PlainSshd:
    import os

    monkeypatch.setenv("PATH", f"{sshd_server.folder / 'client'}:{os.environ['PATH']}")
    assert sshd_server.left() == []
    return sshd_server


class Told(list[str]):
    """What a transport said."""

    @property
    def text(self) -> str:
        return "\n".join(self)


class Bench:
    """A transport with what it said and what it salvaged."""

    def __init__(self, where: str) -> None:
        self.told, self.salvaged = Told(), {}
        self.way = open_transport(where, self.told.append)

    def __call__(self, job: Job) -> Fetched:
        return self.way.bench(job, self.salvaged.update)


@pytest.fixture
def identities() -> list[Identity]:
    return []


def when(condition: Callable[[], bool], act: Callable[[], None], seconds: float = 30.0) -> threading.Thread:
    """Do something as soon as a condition holds, beside the test."""

    def watch() -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                act()
                return
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread
