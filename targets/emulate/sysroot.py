"""Building a userland's files: Debian packages and wheels for arm64, downloaded and unpacked into a cache folder.

The machine's own package lists and architectures stay as they are: apt works on a state of its own. Nothing is installed or run.
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from pipeline.errors import StageFailed, ToolchainMissing
from targets.emulate.userlands import Userland

LAYOUT = 1
"""Raised when the layout below changes, so that an older folder is not taken for a new one."""

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SITE = "usr/lib/python3/dist-packages"
PLATFORMS = (*(f"manylinux_2_{minor}_aarch64" for minor in (28, 27, 24, 17)), "manylinux2014_aarch64")
CORES = "0-1\n"
APPLETS = (
    *("sh", "ls", "cat", "cp", "mv", "rm", "ln", "mkdir", "rmdir", "mktemp", "touch", "chmod", "stat", "test", "[", "true", "false", "env"),
    *("df", "du", "dd", "head", "tail", "wc", "cut", "tr", "sort", "grep", "sed", "awk", "find", "xargs", "tar", "gzip", "gunzip"),
    *("sha256sum", "md5sum", "echo", "printf", "sleep", "timeout", "kill", "ps", "id", "uname", "hostname", "nproc", "date", "flock"),
    *("expr", "seq", "tee", "readlink", "realpath", "dirname", "basename", "nohup", "setsid", "sync", "uptime", "which", "cmp", "diff"),
)
"""Commands of a board's shell, all of them busybox's."""


def cache_folder() -> Path:
    """Where sysroots are kept: $DEBLUR_EDGE_CACHE, or the user's cache folder."""
    return Path(os.environ.get("DEBLUR_EDGE_CACHE") or Path.home() / ".cache" / "deblur-edge-pipeline")


def sysroot_folder(userland: Userland) -> Path:
    """Where a userland's files are, or will be: its name and a digest of what it holds."""
    digest = hashlib.sha256(json.dumps([LAYOUT, asdict(userland)]).encode()).hexdigest()[:12]
    return cache_folder() / f"sysroot-{userland.name}-{digest}"


def build_sysroot(userland: Userland) -> Path:
    """Build a userland unless it is there; returns its folder. Two processes that want the same one wait for each other.

    Raises:
        ToolchainMissing: no apt-get, no Debian archive among its sources, or no pip.
        StageFailed: a download failed.

    """
    out = sysroot_folder(userland)
    out.parent.mkdir(parents=True, exist_ok=True)
    with _locked(out.with_suffix(".lock")):
        if not out.exists():
            with tempfile.TemporaryDirectory(dir=out.parent, prefix=".building-") as tmp:
                _fill(Path(tmp) / "root", Path(tmp), userland)
                (Path(tmp) / "root").replace(out)
    return out


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _fill(root: Path, work: Path, userland: Userland) -> None:
    root.mkdir()
    for deb in _debs(userland, work / "apt"):
        _call("dpkg-deb", "-x", str(deb), str(root))
    for wheel in _wheels(userland, work / "wheels"):
        _unpack(wheel, root / SITE, userland.leave_out)
    for folder in ("doc", "man", "locale", "lintian"):
        shutil.rmtree(root / "usr/share" / folder, ignore_errors=True)
    for folder in ("dev", "etc", "home", "proc", "root", "sys/devices/system/cpu", "tmp", "var"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    (root / "usr/bin/python3").symlink_to(f"python{userland.python}")
    for name in ("possible", "present", "online"):  # what libraries read to count cores
        (root / "sys/devices/system/cpu" / name).write_text(CORES)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")


def _debs(userland: Userland, state: Path) -> list[Path]:
    """Download the packages with an apt that has a state of its own."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise ToolchainMissing("emulate", "there is no apt-get here", "build the sysroot on Debian or Ubuntu")
    for folder in ("lists/partial", "cache/archives/partial", "debs", "empty"):
        (state / folder).mkdir(parents=True)
    (state / "status").touch()
    source = f"deb [arch=arm64 signed-by={KEYRING}] {_archive()} {userland.name} main\n"
    (state / "sources.list").write_text(source)
    own = {
        **{"APT::Architecture": "arm64", "APT::Architectures": "arm64", "APT::Sandbox::User": "root", "Acquire::Languages": "none"},
        **{"Dir::State": state, "Dir::State::status": state / "status", "Dir::Cache": state / "cache"},
        **{"Dir::Etc::sourcelist": state / "sources.list", "Dir::Etc::sourceparts": state / "empty"},
        **{"Dir::Etc::preferences": "/dev/null", "Dir::Etc::preferencesparts": state / "empty"},
    }
    apt = ["apt-get", *(f"-o{key}={value}" for key, value in own.items()), "-qq"]
    _call(*apt, "update")
    _call(*apt, "download", *userland.packages, cwd=state / "debs")
    return sorted((state / "debs").glob("*.deb"))


def _archive() -> str:
    """The Debian archive that this machine's apt uses already."""
    given = os.environ.get("DEBLUR_EDGE_DEBIAN")
    if given:
        return given
    command = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)", "Created-By: Packages"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    found = sorted({line.split()[-1] for line in lines if line.startswith("Debian Debian ")})
    if not found:
        what = "no Debian archive is among apt's sources, or its lists were never fetched"
        raise ToolchainMissing("emulate", what, "apt-get update, or set DEBLUR_EDGE_DEBIAN to an archive's URL")
    return found[0]


def _wheels(userland: Userland, folder: Path) -> list[Path]:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps", "--only-binary=:all:"]
    where = [f"--platform={p}" for p in PLATFORMS]
    _call(*pip, *where, "--implementation=cp", f"--python-version={userland.python}", "-d", str(folder), *userland.wheels)
    return sorted(folder.glob("*.whl"))


def _unpack(wheel: Path, site: Path, leave_out: Sequence[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if not any(fnmatch.fnmatch(n, p) for p in leave_out)]
        archive.extractall(site, names)


def _call(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        what = f"'{' '.join(command[:1])} … {command[-1]}' failed: {(done.stderr or done.stdout).strip()[-400:]}"
        raise StageFailed("emulate", what, "check the network and the free space of " + str(cache_folder()))
