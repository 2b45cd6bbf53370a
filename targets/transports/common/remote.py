"""The bundle's folder on a board, and the job that runs in it."""

from __future__ import annotations

import codecs
import hashlib
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

from pipeline.errors import StageFailed, ToolchainMissing
from targets.transports.common import scripts
from targets.transports.common.base import BundleFile, DroppedError, Job
from targets.transports.common.board import Board

ROOM = 16 << 20
"""Bytes that must be free beside the bundle: the result, the log, what the runtime unpacks."""

ARGUMENTS = 48_000
"""Characters of names in one command: a shell takes 128 KiB in one argument."""

POLL_S = (0.2, 0.5, 1.0, 2.0)
"""Seconds between looks at a running job. They grow: a look costs the board a process, which disturbs what it measures."""

FINISHED = ("0", "3")
"""Statuses with which a step has done its work; 3: the timing is in the result and was unstable."""

LATE = "124"
"""Status of a step that was stopped because it took too long, as coreutils' timeout gives it; busybox gives 143, the program's own."""

WAITING = "w"
"""What a job is that waits for a benchmark which somebody started on the board by hand."""

WORTH_SAYING_S = 2.0
"""Seconds that such a wait takes before it is said."""

GRACE_S = 10.0
"""Seconds that the board's own timeout gets before the step is killed from here."""


class Folder:
    """The folder on the board that holds one bundle. It carries a mark, and nothing without the mark is ever written or removed."""

    def __init__(self, board: Board, path: str, job: Job) -> None:
        self.board, self.path, self.job = board, path, job

    def make(self) -> None:
        """Make the folder, or take up the one that an earlier benchmark of this bundle left."""
        if self.board.checked(scripts.MAKE, self.path, self.job.sha256).startswith("foreign"):
            raise StageFailed(self.board.name, f"{self.path} exists and is not ours", "move it out of the way")

    def check_room(self) -> None:
        """Refuse a board whose disk cannot hold what is still to be sent."""
        need = sum(f.size - have for f, have in self._wanting()) + ROOM
        free = self.free()
        if free < need:
            what = f"the board's disk is full: {self.path} has {free / 1e6:.1f} MB free and needs {need / 1e6:.1f} MB"
            raise StageFailed(self.board.name, what, "free some space there, or name another folder")

    def free(self) -> int:
        """Bytes that may still be written."""
        rows = re.findall(r"\s\d+\s+\d+\s+(-?\d+)\s+\d+%", self.board.checked(scripts.FREE, self.path))
        if not rows:
            raise StageFailed(self.board.name, f"df does not say how much room {self.path} has", "check the folder on the board")
        return int(rows[-1]) * 1024

    def fill(self) -> None:
        """Send what is missing and verify every file on the board; a file that arrives damaged is sent once more.

        Raises:
            StageFailed: a file differs even then, or the disk is full.
            ToolchainMissing: the connection cannot be kept up.

        """
        self.board.steady(self._send)
        damaged = self.board.steady(self._differing)
        if damaged:
            self.board.say(f"{len(damaged)} of {len(self.job.files)} files arrived damaged, sending them again")
            self.board.steady(lambda: self._send_all([(f, 0) for f in damaged]))
            damaged = self.board.steady(self._differing)
        if damaged:
            what = f"'{damaged[0].name}' differs from its hash on the board, twice"
            raise StageFailed(self.board.name, what, "check the board's storage; if the bundle changed meanwhile, run again")
        programs = [f.name for f in self.job.files if f.program]
        if programs:
            self.board.steady(lambda: self.board.checked(scripts.PROGRAMS, self.path, *programs))
        self.board.say(f"{len(self.job.files)} files verified on the board")

    def remove(self) -> None:
        """Remove the folder, if it carries our mark."""
        self.board.checked(scripts.CLEAN, self.path, self.job.sha256, "", "")

    def _send(self) -> None:
        self._send_all(self._wanting())

    def _send_all(self, wanting: Sequence[tuple[BundleFile, int]]) -> None:
        total = sum(f.size - have for f, have in wanting)
        kept = sum(have for _, have in wanting)
        if wanting:
            going_on = f", going on after {kept / 1e6:.1f} MB" if kept else ""
            self.board.say(f"sending {len(wanting)} of {len(self.job.files)} files, {total / 1e6:.1f} MB{going_on}")
        for file, have in wanting:
            done = self.board.put(self.job.bundle / file.name, self.path, file, have)
            if done.code:
                words = done.err.splitlines()[-1] if done.err else f"status {done.code}"
                raise StageFailed(self.board.name, f"'{file.name}' cannot be sent: {words}", "check the folder on the board")

    def _wanting(self) -> list[tuple[BundleFile, int]]:
        """Files that are not there as they should be, and how many of their bytes are."""
        found = self._inventory()
        return [(f, size if 0 < size < f.size else 0) for f, size, sha in found if sha != f.sha256]

    def _differing(self) -> list[BundleFile]:
        return [f for f, _, sha in self._inventory() if sha != f.sha256]

    def _inventory(self) -> list[tuple[BundleFile, int, str]]:
        rows: list[tuple[BundleFile, int, str]] = []
        for part in _parts(self.job.files):
            words = [word for f in part for word in (f.name, str(f.size))]
            lines = self.board.checked(scripts.INVENTORY, self.path, *words).splitlines()
            for file, line in zip(part, lines, strict=True):
                size, _, sha = line.partition(" ")
                rows.append((file, int(size) if size.isdigit() else 0, sha))
        return rows


def _parts(files: Sequence[BundleFile]) -> Iterator[list[BundleFile]]:
    part: list[BundleFile] = []
    length = 0
    for file in files:
        length += len(file.name.encode()) + 24
        if part and length > ARGUMENTS:
            yield part
            part, length = [], len(file.name.encode()) + 24
        part.append(file)
    yield part


class RemoteJob:
    """The steps of a job on the board. A step goes on when the connection is lost, and its result waits to be fetched.

    Args:
        board: where it runs.
        folder: in which folder.
        job: the steps.
        lock: the board's lock, which learns of the process.
        program: turns a step into the command on the board.

    """

    def __init__(self, board: Board, folder: Folder, job: Job, lock: str, program: Callable[[Sequence[str], str], list[str]]) -> None:
        self.board, self.folder, self.job, self.lock, self.program = board, folder, job, lock, program
        self.log = b""
        self._found = False
        self._run = uuid.uuid4().hex[:16]

    def left_behind(self) -> bool:
        """Whether a benchmark whose client was lost runs here, or ended and was not fetched: then it is this job's last step."""
        code, alive, digest = self._look(0)[0]
        self._found = digest.partition(":")[0] == _digest(self.job.steps[-1]) and (alive != "0" or code in FINISHED)
        if self._found:
            self.board.say("an earlier connection was lost during this benchmark: taking it up")
        return self._found

    def run(self) -> None:
        """Carry out the steps, streaming their log.

        Raises:
            StageFailed: a step failed, was killed or took too long.
            ToolchainMissing: the connection cannot be kept up.

        """
        for step in self.job.steps[-1:] if self._found else self.job.steps:
            if not self._found:
                self.board.steady(lambda step=step: self._start(step))  # type: ignore[misc]
            self._judge(step, self._follow())

    def fetch(self) -> dict[str, bytes]:
        """The files that the job left, the result at least; verified by their hashes."""
        files = self.fetch_what_is_there()
        if self.job.fetch[0] not in files:
            raise StageFailed(self.board.name, f"the benchmark ended without writing {self.job.fetch[0]}", self._read_log())
        return files

    def fetch_what_is_there(self) -> dict[str, bytes]:
        """The files that the job left so far, and its log."""
        files = {name: content for name in self.job.fetch if (content := self._read(name)) is not None}
        return {**files, "log": self.log}

    def stop(self) -> None:
        """End what still runs."""
        self.board.checked(scripts.STOP, self.folder.path)

    def forget(self) -> None:
        """Remove the traces of the job from a folder that is kept."""
        self.board.checked(scripts.FORGET, self.folder.path, *self.job.fetch)

    def _start(self, step: Sequence[str]) -> None:
        digest = f"{_digest(step)}:{self._run}"
        if self._look(0)[0][2] == digest:  # it was started, and the answer was lost
            return
        limit = f"{self.job.limit_s:.0f}"
        self.log = b""
        command = self.program(step, self.folder.path)
        done = self.board.sh(scripts.START, self.folder.path, self.lock, digest, limit, *command, until=b"started")
        if done.code:
            words = done.err.splitlines()[-1] if done.err else f"status {done.code}"
            raise StageFailed(self.board.name, f"the benchmark cannot be started: {words}", "check the folder on the board")

    def _look(self, known: int) -> tuple[tuple[str, str, str], bytes]:
        done = self.board.sh(scripts.POLL, self.folder.path, str(known))
        if done.code:
            return ("-", "0", ""), b""
        head, _, more = done.out.partition(b"\n")
        code, alive, digest, *_ = [*head.decode("ascii", "replace").split(), "", ""]
        return (code, alive or "0", digest), more

    def _follow(self) -> str:
        """Stream the log until the step ends; its status, "-" when it ended without one."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._wait_for_others()
        line, gone, looks, begin = "", 0, 0, time.monotonic()
        while True:
            late = time.monotonic() - begin - self.job.limit_s
            if late > GRACE_S:
                self.board.steady(self.stop)
                return LATE
            (code, alive, _), more = self.board.steady(lambda: self._look(len(self.log)))
            self.log += more
            *whole, line = (line + decoder.decode(more)).split("\n")
            for text in whole:
                self.board.say(f"  {text}")
            gone = 0 if alive != "0" or code != "-" else gone + 1
            if code != "-" or gone == 3:
                return LATE if code == "143" and late > -1 else code
            time.sleep(POLL_S[min(looks // 5, len(POLL_S) - 1)])
            looks += 1

    def _wait_for_others(self) -> None:
        """Return when the step does not wait any more; raises ToolchainMissing when it waits for too long."""
        begin, said = time.monotonic(), False
        while self.board.steady(lambda: self._look(0))[0][1] == WAITING:
            waited = time.monotonic() - begin
            if waited > self.job.wait_s:
                self.board.steady(self.stop)
                what = f"is still in use by a benchmark that was started there by hand, after {self.job.wait_s:g} s"
                raise ToolchainMissing(self.board.name, what, "try again later, or wait longer with --wait SECONDS")
            if waited > WORTH_SAYING_S and not said:
                self.board.say("waiting in line: a benchmark that was started by hand uses the board")
                said = True
            time.sleep(POLL_S[0])

    def _judge(self, step: Sequence[str], code: str) -> None:
        if code in FINISHED:
            return
        name = " ".join(step[:2]).removeprefix("python ")
        lines = [x for x in self.log.decode("utf-8", "replace").splitlines() if x.strip()]
        last = lines[-1].strip() if lines else "no output"
        if code in {"137", "-"} or (code.isdigit() and int(code) > 128):
            signal = f"signal {int(code) - 128}" if code.isdigit() else "without a status"
            hint = f"the board may be out of memory: close what else runs there; {self._read_log()}"
            raise StageFailed(self.board.name, f"{name} was killed on the board ({signal}{self._full()}); last line: {last}", hint)
        if code == LATE:
            what = f"{name} took longer than {self.job.limit_s:.0f} s on the board and was stopped; last line: {last}"
            raise StageFailed(self.board.name, what, "give it more time with --limit SECONDS")
        if code == "127" and not self.board.name.startswith("local"):
            raise ToolchainMissing(self.board.name, f"{name} cannot be started on the board: {last}", "install what it names there")
        raise StageFailed(self.board.name, f"{name} failed on the board (status {code}{self._full()}): {last}", self._read_log())

    def _read_log(self) -> str:
        """The next step after a failure. A log without a word is not kept."""
        return f"read {self.job.log}" if self.log else "nothing was logged: leave the bundle there with --keep and run it there by hand"

    def _full(self) -> str:
        """A word about the disk when it is the likely reason."""
        free = self.board.steady(self.folder.free)
        return f", and its disk is full: {free / 1e6:.1f} MB free" if free < 1 << 20 else ""

    def _read(self, name: str) -> bytes | None:
        done = self.board.sh(scripts.READ, self.folder.path, name, timeout=600)
        if done.code:
            return None
        head, _, content = done.out.partition(b"\n")
        if hashlib.sha256(content).hexdigest() != head.decode("ascii", "replace").strip():
            raise DroppedError(f"{name} was damaged on its way back")
        return content


def _digest(step: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(step).encode()).hexdigest()[:32]
