"""The folder with which a board is calibrated: every microbenchmark as this backend builds it, and the script that times them there.

It is laid out as a bundle is (``eval.bundle``), so that every transport brings, verifies and removes it; it holds no golden outputs, for
it is timed and nothing else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module, util
from pathlib import Path
from typing import Any, Literal

import targets.device
from compile.bundle import write_manifest
from compile.source import source_file
from eval.bundle import artifact_layers
from eval.session import BuildRequest, Built, load_backend
from pipeline.store import hash_file
from pipeline.target import Target
from quantize.artifact import ModelFolder
from targets.layers import LayerCost
from targets.microbench import SIZE_MULTIPLE, Micro, default_set, write_set

SIDES = {"cpu": (256, 64), "gpu": (512, 128)}
"""Sides in pixels of the networks' images. On a CPU each network is timed at both; on a GPU, where every engine is built on the board for
half a minute, at one of them in turn."""

SCRIPT = "calibrate.py"
"""Name on the board of ``targets/calibrate_on_board.py``."""

TOLD = 20
"""Networks built between two words about it."""


@dataclass(frozen=True, slots=True)
class How:
    """What is calibrated: a backend (folder of compile/) in a precision, on a processor of the target, with its options."""

    target: Target
    backend: str
    precision: str
    runs_on: Literal["cpu", "gpu"]


def write_calibration(folder: Path, how: How, work: Path, say: Callable[[str], None]) -> dict[str, list[LayerCost]]:
    """Build the microbenchmarks and write the folder.

    Args:
        folder: to write; what was there goes.
        how: what is calibrated.
        work: for what is not needed afterwards.
        say: called with a line now and then.

    Returns:
        Layers by name of each network, as the estimator reads them.

    Raises:
        ToolchainMissing: the backend's compiler is not here.
        StageFailed: it refuses a microbenchmark.

    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "artifacts").mkdir(parents=True)
    pairs = list(_sized(default_set(), how.runs_on))
    models = dict(write_set(work / "models", list(dict.fromkeys(m for m, _ in pairs)), how.target.opset))
    entries: list[dict[str, Any]] = []
    layers: dict[str, list[LayerCost]] = {}
    free: dict[Micro, Built] = {}  # what takes images of any size is built, and sent, once
    for n, (micro, side) in enumerate(pairs, 1):
        name, model = f"{micro.name}-{side}", ModelFolder(models[micro])
        built = free.get(micro) or _built(model, side, how, work / "built" / name)
        entries.append(_entry(folder, micro.name if not built.facts["height"] else name, name, side, how, built))
        free |= {} if built.facts["height"] else {micro: built}
        reference = source_file(model, built.facts["source"])
        layers[name] = artifact_layers(reference, side, side, built.facts["float_precision"])
        if n % TOLD == 0 or n == len(pairs):
            say(f"{n} of {len(pairs)} microbenchmarks are built")
    _write_facts(folder, how.target, entries)
    _write_scripts(folder, entries)
    write_manifest(folder)
    return layers


def _sized(micros: Sequence[Micro], runs_on: str) -> Iterator[tuple[Micro, int]]:
    sides = SIDES[runs_on]
    for n, micro in enumerate(micros):
        for side in (sides[n % 2],) if runs_on == "gpu" else sides:
            yield micro, side


def _built(model: ModelFolder, side: int, how: How, work: Path) -> Built:
    options = next((b.options for b in how.target.backends if b.use == how.backend and b.runs_on == how.runs_on), {})
    request = BuildRequest(model.path, how.precision, side, side, how.target, work, how.target.is_host, options)
    return load_backend(how.backend).build(request)


def _entry(folder: Path, file: str, name: str, side: int, how: How, built: Built) -> dict[str, Any]:
    """A network of the folder as the device's scripts read it. Files and facts of an engine are named after the backend: renamed here."""
    path = f"artifacts/{file}{built.path.suffix}"
    shutil.copyfile(built.path, folder / path)
    facts = json.loads(json.dumps(dict(built.facts)).replace(f"artifacts/{built.path.stem}.", f"artifacts/{name}."))
    runner = _module(facts["backend"], "runner")
    return {
        **{"name": name, "backend": load_backend(how.backend).name, "precision": how.precision, "role": _role(how), "path": path},
        **{"sha256": hash_file(folder / path), "height": side, "width": side, "facts": facts},
        "runner": runner.write_runner(facts, folder) if runner else "",
    }


def _role(how: How) -> str:
    return "host" if how.target.is_host else "target"


def _write_facts(folder: Path, target: Target, entries: Sequence[dict[str, Any]]) -> None:
    facts = {
        **{"target": target.name, "title": target.title, "recognise": target.recognise.model_dump(mode="json", exclude_defaults=True)},
        **{"network": {"input": "lq", "output": "restored", "size_multiple": SIZE_MULTIPLE}, "chosen": entries[0]["name"]},
        "artifacts": list(entries),
    }
    (folder / "bundle.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _write_scripts(folder: Path, entries: Sequence[dict[str, Any]]) -> None:
    """What runs on the board: the scripts of every bundle, the one that times, and what the backend adds to build engines there."""
    device = Path(targets.device.__file__).parent
    shutil.copytree(device / "board", folder / "board", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(device.parent / "calibrate_on_board.py", folder / SCRIPT)
    script = _module(str(entries[0]["facts"]["backend"]), "script")
    text = script.build_script({e["name"]: e["facts"] for e in entries}, entries[0]["name"]) if script else ""
    if text:
        (folder / "build_engine.sh").write_text(text, encoding="utf-8")
        for file in script.DEVICE_FILES:
            shutil.copyfile(file, folder / file.name)


def _module(backend: str, name: str) -> Any:
    """A module of a backend's folder; None when it has none of that name."""
    return import_module(f"{backend}.{name}") if util.find_spec(f"{backend}.{name}") else None
