"""Filling a network with weights from elsewhere: published checkpoints, or the pipeline's own."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.checkpoint import mismatch
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

_WRAPPERS = ("params_ema", "params", "state_dict", "model")
_COUNTER = "num_batches_tracked"


def load_weights(module: nn.Module, path: Path) -> None:
    """Copy the weights in ``path`` into ``module``; names and shapes must agree.

    Reads ``.safetensors``, and ``.pth``/``.pkl``/``.pt`` files of PyTorch without executing any pickle. The weights may lie under
    ``params``, ``state_dict`` or ``model``, and their names may begin with ``module.``.

    Raises:
        UsageError: missing or unreadable file, or tensors that do not fit the network.
    """
    from models.imported import ImportedNetwork

    inner = module.network if isinstance(module, ImportedNetwork) else module
    state = _without_prefix(_without_prefix(read_state(path), "module."), "network." if inner is not module else "")
    state = {name: tensor for name, tensor in state.items() if not name.endswith(_COUNTER)}
    wanted = {name: tensor for name, tensor in inner.state_dict().items() if not name.endswith(_COUNTER)}
    problem = mismatch(wanted, state)
    if problem:
        raise UsageError(str(path), problem, "give the width and depth that the weights were trained with")
    inner.load_state_dict(state, strict=False)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name; raises UsageError when there is no such file or it holds none."""
    if not path.is_file():
        raise UsageError(str(path), "no such file", "check the path; it is relative to the YAML file")
    content = _read(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = {str(name): tensor for name, tensor in content.items() if hasattr(tensor, "shape")} if isinstance(content, Mapping) else {}
    if not tensors:
        raise UsageError(str(path), "it holds no weights by name", "give a state dict")
    return tensors


def _read(path: Path) -> Any:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as e:
        first_line = str(e).partition("\n")[0]
        raise UsageError(str(path), f"cannot be read as weights ({first_line})", "give .safetensors, or a .pth of tensors only") from e


def _without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    if prefix and all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state
