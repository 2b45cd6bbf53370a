"""What is installed here, what a target needs of it, and the one line that mends each gap. Nothing is fetched or started."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import re
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from pipeline.devices import reachable
from pipeline.ingest.identity import recognise_rules
from pipeline.machine import machine_facts
from pipeline.target import Target, known_targets, load_target

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
DISTRIBUTION = "deblur-edge-pipeline"

ALWAYS = ("", "train", "onnx")
"""Groups of packages that every run needs: the base, training, and the exchange format that every backend starts from."""

COLLECTIONS = ("all", "dev")
"""Extras that only name others, or only serve the tests."""

TOOLS = {
    "ssh": ("openssh-client", "boards over ssh"),
    "adb": ("adb", "Android devices"),
    "sshd": ("openssh-server", "the tests' board"),
}
"""Programs → Debian's package and what it is for."""

SBIN = "/usr/sbin:/sbin:/usr/local/sbin"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked for.

    group    "packages", "gpu", "backends", "emulation", "tools", "machine" or "devices"
    state    "ok", "missing", or "none": not there, and nothing that could be installed
    detail   what was found: versions, or what is lacking
    install  the line that mends it; empty when nothing is missing
    needed   whether the target cannot do without
    """

    group: str
    name: str
    state: Literal["ok", "missing", "none"]
    detail: str
    install: str = ""
    needed: bool = False


def examine(target: Target | None = None, boards: Sequence[str] = ()) -> list[Finding]:
    """Everything that the pipeline can use, in the order of the report.

    Args:
        target: what ``needed`` is about; about any when there is none.
        boards: those to ask beside this machine and what is connected to it, as ``--on`` takes them; each is needed.

    """
    found = [*_packages(), _gpu(), *_backends(target), *_emulation(target), *_tools(), _machine()]
    return [*found, *_devices(target, boards)]


def requirements() -> dict[str, list[Requirement]]:
    """Required packages by extra, "" for the base: from the project's file beside the code, else from what pip installed."""
    if PROJECT.exists():
        project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
        groups = {"": project["dependencies"], **project["optional-dependencies"]}
        return {name: [Requirement(line) for line in lines] for name, lines in groups.items() if name not in COLLECTIONS}
    found: dict[str, list[Requirement]] = {}
    for line in importlib.metadata.requires(DISTRIBUTION) or []:
        extra = re.search(r"extra == ['\"]([\w-]+)", line)
        found.setdefault(extra[1] if extra else "", []).append(Requirement(line.partition(";")[0]))
    return {name: lines for name, lines in found.items() if name not in COLLECTIONS}


def _packages() -> Iterator[Finding]:
    for extra, wanted in requirements().items():
        found = [(r, _version(r.name)) for r in wanted]
        gaps = [f"{r} ({version or 'not installed'})" for r, version in found if not version or version not in r.specifier]
        here = ", ".join(f"{r.name} {version}" for r, version in found)
        line = f'pip install -e ".[{extra}]"' if extra else "pip install -e ."
        detail = f"wants {', '.join(gaps)}" if gaps else here
        yield Finding("packages", extra or "base", "missing" if gaps else "ok", detail, line if gaps else "", extra in ALWAYS)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _gpu() -> Finding:
    if not _version("torch"):
        return Finding("gpu", "cuda", "none", "not looked for: torch is not installed")
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        return Finding("gpu", "cuda", "none", f"torch {torch.__version__} sees no GPU: training runs on the CPU")
    return Finding("gpu", "cuda", "ok", f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")


def _backends(target: Target | None) -> Iterator[Finding]:
    """Every folder of ``compile/`` that exports a backend, as it says itself."""
    wanted = {b.use for b in target.backends} if target else set()
    for name in sorted(m.name for m in pkgutil.iter_modules(importlib.import_module("compile").__path__) if m.ispkg):
        needed = name in wanted
        try:
            backend = importlib.import_module(f"compile.{name}").BACKEND
        except ImportError as e:
            yield Finding("backends", name, "missing", f"cannot be imported: {e}", 'pip install -e ".[all]"', needed)
            continue
        line = backend.missing()
        versions = ", ".join(f"{p} {_version(p)}" for p in backend.toolchain if _version(p))
        detail = "its packages are not here, or do not fit" if line else versions or "needs nothing"
        yield Finding("backends", name, "missing" if line else "ok", detail, line, needed)
    for name in sorted(wanted - {m.name for m in pkgutil.iter_modules(importlib.import_module("compile").__path__)}):
        yield Finding("backends", name, "missing", "there is no such folder in compile/", "mend the target's 'backends'", needed=True)


def _emulation(target: Target | None) -> Iterator[Finding]:
    """Whether artifacts for aarch64 can be run here; the tests do, a run does not need it."""
    if target is not None and not target.cpu.triple.startswith("aarch64"):
        return
    emulator = importlib.import_module("targets.emulate.emulator").Emulator
    for name, userland in importlib.import_module("targets.emulate.userlands").USERLANDS.items():
        line = emulator(system=name).missing()
        detail = "not complete" if line else f"qemu, glibc {userland.glibc}, Python {userland.python}: function only, no timing"
        yield Finding("emulation", name, "missing" if line else "ok", detail, line)


def _tools() -> Iterator[Finding]:
    for program, (package, purpose) in TOOLS.items():
        path = shutil.which(program) or shutil.which(program, path=SBIN)
        line = "" if path else f"apt-get install {package}"
        yield Finding("tools", program, "ok" if path else "missing", f"{path} ({purpose})" if path else purpose, line)


def _devices(target: Target | None, boards: Sequence[str]) -> Iterator[Finding]:
    targets = {name: load_target(name) for name in known_targets()}
    targets |= {target.name: target} if target else {}
    for d in reachable(list(targets.values()), boards):
        needed = d.where in boards
        if d.error is not None:
            yield Finding("devices", d.where, "missing", d.error.what, d.error.hint, needed)
        elif needed and d.judged and target is not None and _tells(target) and target.name not in d.targets:
            yield Finding("devices", d.where, "missing", f"{d.told()}, not {target.name}", f"connect {target.title}", needed)
        else:
            yield Finding("devices", d.where, "ok", d.told(), needed=needed)


def _tells(target: Target) -> bool:
    """Whether the target says how its board is told from others; any board is taken for one that does not, as by ``bench``."""
    return target.is_host or bool(recognise_rules(target))


def _machine() -> Finding:
    facts = machine_facts()
    path = Path("/proc/device-tree/model")
    model = path.read_text(errors="replace").strip("\0\n ") if path.exists() else ""
    here = f"{facts['cpu']}, {facts['cores']} cores, {facts['arch']}, Python {facts['python']}"
    return Finding("machine", "local", "ok", f"{model}: {here}" if model else here)
