"""adb: what the client's list of devices may hold beside devices, in the client's own words; no real device can be brought to show them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import ToolchainMissing
from targets.transports import around, open_transport
from targets.transports.common import shell

LIST = "List of devices attached\n"
ODD = (
    "????????????\tno permissions (missing udev rules? user is in the plugdev group); see [http://developer.android.com/tools/device.html]\n"
    "0123456789ABCDEF\toffline\n10.0.0.7:5555\toffline\nR58M\tunauthorized\n-s\tdevice\n"
)
Client = Callable[[str], Path]


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A client that carries out the given shell lines, and something that listens where the server would."""

    def write(lines: str) -> Path:
        path = tmp_path / "adb"
        path.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n{lines}')
        path.chmod(0o755)
        return tmp_path / "asked"

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.getsockname()[1]))
        yield write


def test_only_devices_that_answer_are_found(client: Client):
    asked = client(f"cat <<'EOF'\n{LIST}{ODD}emulator-5554\tdevice\n10.0.0.8:5555\tdevice\nEOF\n")
    assert around() == ["adb:emulator-5554", "adb:10.0.0.8:5555", "local"]
    assert asked.read_text() == "devices\n"


@pytest.mark.parametrize("port", ["", "x", "-1", "65536", "\u0661\u0662", "1" * 5000])
def test_a_port_that_is_none(client: Client, monkeypatch: pytest.MonkeyPatch, port: str):
    client(f"cat <<'EOF'\n{LIST}emulator-5554\tdevice\nEOF\n")
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", port)
    monkeypatch.setattr(socket, "create_connection", _refused)
    assert around() == ["local"]


def _refused(address: tuple[str, int], timeout: float) -> socket.socket:
    del timeout
    assert address == ("127.0.0.1", 5037), "what is not set means adb's own"
    raise ConnectionRefusedError


def test_a_device_whose_shell_hangs_is_asked_once(client: Client, monkeypatch: pytest.MonkeyPatch):
    asked = client('[ "$3" = get-state ] && echo device || exec sleep 30\n')
    monkeypatch.setattr(shell, "LOOK_S", 0.3)
    told: list[str] = []
    with pytest.raises(ToolchainMissing, match=r"adb:phone: cannot be reached \(no answer in time\)"):
        open_transport("adb:phone", told.append).look()
    assert asked.read_text().count(" shell ") == 1
    assert told == []
