"""Checkpoints: one ``.safetensors`` file whose header says how to rebuild the network. No pickle is ever executed.

The header holds one JSON document under ``checkpoint``: format version, architecture, its configuration *with the real channel
widths*, the input convention and the history (one entry per stage that changed the weights).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.arch import load_arch, parse_config
from models.spec import size_multiple
from pipeline.errors import StageFailed, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1
_KEY = "checkpoint"


@dataclass(frozen=True, slots=True)
class Header:
    """What a checkpoint says about itself.

    config   the architecture's configuration
    input    the input convention: layout, colour order, range, size multiple
    history  what was done to the weights, oldest first
    """

    arch: str
    config: dict[str, Any]
    input: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint's network (eval mode, float32, on the CPU) and its header."""

    module: nn.Module
    header: Header

    @property
    def arch(self) -> str:
        """The architecture's name."""
        return self.header.arch

    @property
    def config(self) -> dict[str, Any]:
        """The architecture's configuration."""
        return self.header.config

    @property
    def history(self) -> list[dict[str, Any]]:
        """What was done to the weights, oldest first."""
        return self.header.history


def save(
    path: Path, module: nn.Module, arch: str, config: Mapping[str, Any] | None = None, history: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write a checkpoint: temporary file, fsync, rename. Equal content gives equal bytes.

    Args:
        path: the ``.safetensors`` file.
        module: the network; floating-point tensors are stored as float32.
        arch: its architecture's name.
        config: what rebuilds it; by default read from the module itself.
        history: what was done to the weights, oldest first; JSON.

    Raises:
        StageFailed: the configuration does not describe the module.
    """
    from safetensors.torch import save as serialize

    state = _state(module)
    config = dict(load_arch(arch).config_of(module) if config is None else config)
    _check_described(path, arch, config, state)
    convention = {"layout": "NCHW", "colours": "RGB", "range": [0, 1], "size_multiple": size_multiple(module)}
    header = {"format": FORMAT, "arch": arch, "config": config, "input": convention, "history": [dict(entry) for entry in history]}
    _write_atomically(path, serialize(state, {_KEY: json.dumps(header, sort_keys=True)}))


def read_header(path: Path) -> Header:
    """A checkpoint's header, without torch and without its tensors.

    Raises:
        UsageError: missing file, not a safetensors file, or one without a pipeline's header.
    """
    from safetensors import SafetensorError, safe_open

    hint = "give a checkpoint that the pipeline wrote"
    if not path.is_file():
        raise UsageError(str(path), "no such file", hint)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except SafetensorError as e:
        raise UsageError(str(path), f"not a safetensors file ({e})", hint) from e
    if _KEY not in metadata:
        raise UsageError(str(path), "its header does not say which network it is", hint)
    return _parse_header(path, metadata[_KEY])


def load(path: Path) -> Loaded:
    """Rebuild the network from the header alone and fill in its weights, bit for bit.

    Raises:
        UsageError: as ``read_header``; also an unknown architecture, or tensors that do not fit it.
    """
    from safetensors.torch import load_file

    header = read_header(path)
    try:
        module = load_arch(header.arch).build(parse_config(header.arch, header.config))
    except UsageError as e:
        raise UsageError(f"{path}: {e.where}", e.what, e.hint) from e
    state = load_file(path)
    problem = mismatch(module.state_dict(), state)
    if problem:
        raise UsageError(str(path), problem, f"the file does not hold the {header.arch} that its header describes: write it again")
    module.load_state_dict(state)
    return Loaded(module.eval(), header)


def mismatch(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """The first difference in names and shapes between two state dicts, in words; empty when they agree."""
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing:
        return f"{len(missing)} tensor(s) missing, e.g. '{missing[0]}'"
    if extra:
        return f"{len(extra)} tensor(s) without a place in the network, e.g. '{extra[0]}'"
    for name, tensor in wanted.items():
        if tensor.shape != found[name].shape:
            return f"tensor '{name}' is {list(found[name].shape)} but the network has {list(tensor.shape)}"
    return ""


def _state(module: nn.Module) -> dict[str, Tensor]:
    def plain(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).contiguous().clone()

    return {name: plain(tensor) for name, tensor in module.state_dict().items()}


def _check_described(path: Path, arch: str, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    import torch

    with torch.device("meta"):
        rebuilt = load_arch(arch).build(parse_config(arch, config))
    problem = mismatch(rebuilt.state_dict(), state)
    if problem:
        raise StageFailed(str(path), f"the configuration does not fit the network: {problem}", "pass the architecture's config_of(module)")


def _parse_header(path: Path, text: str) -> Header:
    try:
        document = json.loads(text)
        version = document["format"]
        header = Header(document["arch"], document["config"], document["input"], document["history"])
    except (ValueError, KeyError, TypeError) as e:
        raise UsageError(str(path), f"its header cannot be read ({type(e).__name__}: {e})", "write the checkpoint again") from e
    if version != FORMAT:
        raise UsageError(str(path), f"checkpoint format {version}, but this version reads {FORMAT}", "use the version that wrote it")
    return header


def _write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
