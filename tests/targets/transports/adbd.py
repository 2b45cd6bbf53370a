"""The smallest device daemon that the real adb client takes for a device: transport, shell protocol v2 and file sync over TCP.

After the protocol documents in AOSP, packages/modules/adb: protocol.txt, SYNC.TXT, shell_protocol.h.
"""

from __future__ import annotations

import os
import queue
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

CNXN, OPEN, OKAY, CLSE, WRTE = (int.from_bytes(name, "little") for name in (b"CNXN", b"OPEN", b"OKAY", b"CLSE", b"WRTE"))
VERSION, MAX_DATA = 0x01000001, 256 * 1024
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
GETPROP = '#!/bin/sh\n[ "$1" = ro.product.model ] && echo "Toy Phone"\n[ "$1" = ro.product.cpu.abi ] && echo arm64-v8a\n' + (
    '[ -z "$1" ] && printf "[ro.product.model]: [Toy Phone]\\n[ro.product.cpu.abi]: [arm64-v8a]\\n[persist.x]: [y]\\n"\nexit 0\n'
)


class Device:
    """A phone whose files are a folder of this machine. ``cut_after``: bytes of a file after which the cable is pulled once."""

    def __init__(self, folder: Path) -> None:
        self.tmp, self.bin = folder / "tmp", folder / "bin"
        self.tmp.mkdir()
        self.bin.mkdir()
        (self.bin / "getprop").write_text(GETPROP)
        (self.bin / "getprop").chmod(0o755)
        self.cut_after: int | None = None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.listener.close()

    def environment(self) -> dict[str, str]:
        path = f"{self.bin}:{Path(sys.executable).parent}:/usr/bin:/bin"
        return {"TMPDIR": str(self.tmp), "PATH": path, "HOME": str(self.tmp)}

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                Connection(self, self.listener.accept()[0])


class Connection:
    """One connection of an adb server: messages of 24 bytes and a payload, streams by number."""

    def __init__(self, device: Device, sock: socket.socket) -> None:
        self.device, self.sock = device, sock
        self.streams: dict[int, Stream] = {}
        self.sending = threading.Lock()
        threading.Thread(target=self._serve, daemon=True).start()

    def send(self, command: int, arg0: int, arg1: int, data: bytes = b"") -> None:
        head = struct.pack("<6I", command, arg0, arg1, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        with self.sending, suppress(OSError):
            self.sock.sendall(head + data)

    def cut(self) -> None:
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with suppress(OSError), self.sock:
            while head := self._exactly(24):
                command, arg0, arg1, length, _, _ = struct.unpack("<6I", head)
                self._handle(command, arg0, arg1, self._exactly(length))
        for stream in self.streams.values():
            stream.arrived.put(None)

    def _handle(self, command: int, theirs: int, ours: int, data: bytes) -> None:
        if command == CNXN:
            banner = b"device::ro.product.name=toy;ro.product.model=Toy_Phone;ro.product.device=toy;features=shell_v2,cmd"
            self.send(CNXN, VERSION, MAX_DATA, banner)
        elif command == OPEN:
            number = len(self.streams) + 1
            self.streams[number] = Stream(self, number, theirs, data.rstrip(b"\0").decode("utf-8", "surrogateescape"))
        elif ours in self.streams:
            stream = self.streams[ours]
            if command == OKAY:
                stream.ready.release()
            elif command == WRTE:
                self.send(OKAY, ours, theirs)
                stream.arrived.put(data)
            elif command == CLSE:
                stream.arrived.put(None)
                stream.ready.release()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                return b""
            data += more
        return data


class Stream:
    """One service: a shell command or file sync."""

    def __init__(self, connection: Connection, ours: int, theirs: int, service: str) -> None:
        self.connection, self.ours, self.theirs = connection, ours, theirs
        self.arrived: queue.Queue[bytes | None] = queue.Queue()
        self.ready = threading.Semaphore(1)
        self.buffer = b""
        connection.send(OKAY, ours, theirs)
        serve = self._sync if service == "sync:" else self._shell
        threading.Thread(target=self._run, args=(serve, service), daemon=True).start()

    def _run(self, serve: object, service: str) -> None:
        with suppress(EOFError):
            serve(service)  # type: ignore[operator]
        self.connection.send(CLSE, self.ours, self.theirs)

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), MAX_DATA):
            self.ready.acquire()
            self.connection.send(WRTE, self.ours, self.theirs, data[start : start + MAX_DATA])

    def read(self, count: int) -> bytes:
        while len(self.buffer) < count:
            more = self.arrived.get()
            if more is None:
                raise EOFError
            self.buffer += more
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    def _shell(self, service: str) -> None:
        kind, _, command = service.partition(":")
        assert kind.startswith("shell,v2"), service
        process = subprocess.Popen(
            ["sh", "-c", command],
            env=self.connection.device.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        pumps = [threading.Thread(target=self._pump, args=(k, p)) for k, p in ((STDOUT, process.stdout), (STDERR, process.stderr))]
        threading.Thread(target=self._feed, args=(process,), daemon=True).start()
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        self.write(struct.pack("<BIB", EXIT, 1, process.wait() & 0xFF))

    def _pump(self, kind: int, pipe: object) -> None:
        while data := os.read(pipe.fileno(), 65536):  # type: ignore[attr-defined]
            self.write(struct.pack("<BI", kind, len(data)) + data)

    def _feed(self, process: subprocess.Popen[bytes]) -> None:
        with suppress(EOFError, OSError):
            while True:
                kind, length = struct.unpack("<BI", self.read(5))
                data = self.read(length)
                if kind == STDIN:
                    process.stdin.write(data)  # type: ignore[union-attr]
                    process.stdin.flush()  # type: ignore[union-attr]
                elif kind == CLOSE_STDIN:
                    break
        with suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]

    def _sync(self, service: str) -> None:
        while True:
            name, length = struct.unpack("<4sI", self.read(8))
            text = self.read(length)
            if name == b"QUIT":
                return
            {b"STAT": self._stat, b"LIST": self._list, b"SEND": self._send, b"RECV": self._receive}[name](text)

    def _stat(self, text: bytes) -> None:
        path = Path(os.fsdecode(text))
        try:
            s = path.stat()
            self.write(struct.pack("<4s3I", b"STAT", s.st_mode, s.st_size, int(s.st_mtime)))
        except OSError:
            self.write(struct.pack("<4s3I", b"STAT", 0, 0, 0))

    def _list(self, path: bytes) -> None:
        for entry in os.scandir(path):
            s = entry.stat()
            self.write(struct.pack("<4s4I", b"DENT", s.st_mode, s.st_size, int(s.st_mtime), len(entry.name)) + entry.name)
        self.write(struct.pack("<4s4I", b"DONE", 0, 0, 0, 0))

    def _send(self, what: bytes) -> None:
        path, got, device = Path(os.fsdecode(what.rpartition(b",")[0])), 0, self.connection.device
        try:
            with path.open("wb") as f:
                while (head := struct.unpack("<4sI", self.read(8)))[0] == b"DATA":
                    got += f.write(self.read(head[1]))
                    if device.cut_after is not None and got > device.cut_after:
                        device.cut_after = None
                        self.connection.cut()
        except OSError as e:
            message = f"couldn't create file: {e.strerror}".encode()
            self.write(struct.pack("<4sI", b"FAIL", len(message)) + message)
        except EOFError:
            path.unlink()  # as adbd does with a file that is not complete
            raise
        else:
            self.write(struct.pack("<4sI", b"OKAY", 0))

    def _receive(self, path: bytes) -> None:
        with Path(os.fsdecode(path)).open("rb") as f:
            while data := f.read(65536):
                self.write(struct.pack("<4sI", b"DATA", len(data)) + data)
        self.write(struct.pack("<4sI", b"DONE", 0))
