"""Reading weights from elsewhere: published checkpoints of PyTorch and safetensors files. No pickle is ever executed.

What a file is, is decided by its content: published weights carry any suffix.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import checkpoint
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

WRAPPERS = ("params_ema", "params", "state_dict", "model", "model_state_dict", "net", "generator", "network")
"""Where in a saved training state the weights lie, the first that is there; one may lie in another."""

COUNTERS = ("num_batches_tracked", "n_averaged")
"""What counts training steps beside the weights: dropped."""

_RETRY = "download or copy the file again"
_CONVERT = "where it was made, write its weights alone: torch.save(model.state_dict(), 'weights.pth')"
_UNPACK = "unpack it and give the file of weights that is in it"
_TENSORFLOW = "give weights of a PyTorch version of the network; those of TensorFlow have other names and layouts"
_MAGIC = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file that it stands for", "fetch the file itself: git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, as Keras writes, not weights of PyTorch", _TENSORFLOW),
    (b"model_checkpoint_path:", "belongs to a TensorFlow checkpoint", _TENSORFLOW),
    (b"\x1f\x8b", "is a gzip archive", _UNPACK),
    (b"Rar!", "is a RAR archive", _UNPACK),
    (b"7z\xbc\xaf", "is a 7z archive", _UNPACK),
)
_TABLE_END = bytes.fromhex("57fb808b247547db")
_DAMAGED = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    MemoryError,
    struct.error,
)
"""What torch's reader raises on bytes that are no checkpoint."""


def load_weights(module: nn.Module, path: Path) -> None:
    """Copy the weights in ``path`` into ``module``, or into the published network that it wraps; names and shapes must agree.

    Raises:
        UsageError: as ``read_state``, or tensors that do not fit the network.
    """
    from torch import nn

    network = getattr(module, "network", None)
    inner = network if isinstance(network, nn.Module) else module
    wanted = {name: tensor for name, tensor in inner.state_dict().items() if not is_counter(name)}
    state = max(name_forms(read_state(path)), key=lambda form: len(form.keys() & wanted.keys()))
    problem = checkpoint.mismatch(wanted, state)
    if problem:
        raise UsageError(str(path), problem, "give the width and depth that the weights were trained with")
    inner.load_state_dict(state, strict=False)


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights in a file by name, as named there: floating-point ones as float32, counters left out, on the CPU.

    Reads what ``torch.save`` writes (zip and older) and safetensors, whatever the suffix. The weights may lie under ``WRAPPERS``.

    Raises:
        UsageError: no such file, one of another kind, a damaged one, one that needs code to be read, or one without weights.
    """
    content = _load(path, _kind(path))
    tensors = {str(name): _plain(tensor) for name, tensor in _unwrapped(path, content).items() if _is_tensor(tensor)}
    return {name: tensor for name, tensor in tensors.items() if not is_counter(name)}


def name_forms(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The weights as named, then without the first part of their names (``module.``, ``generator.``) as long as all share it."""
    state = dict(state)
    while True:
        yield state
        if len({name.partition(".")[0] for name in state}) != 1 or not all("." in name for name in state):
            return
        state = {name.partition(".")[2]: tensor for name, tensor in state.items()}


def is_counter(name: str) -> bool:
    """Whether a tensor of that name counts steps instead of being a weight."""
    return name.rpartition(".")[2] in COUNTERS


def has_header(path: Path) -> bool:
    """Whether a file is a checkpoint of the pipeline's own. Needs no torch."""
    if not path.is_file() or not _is_safetensors(_head(path)):
        return False
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        text = file.read(length)
    try:
        header = json.loads(text)
    except ValueError:
        return False
    return isinstance(header, dict) and checkpoint._KEY in (header.get("__metadata__") or {})


def _kind(path: Path) -> str:
    """``safetensors`` or ``torch``; anything else is refused by name."""
    _check_is_file(path)
    head = _head(path)
    if not head:
        raise UsageError(str(path), "is empty", _RETRY)
    if head.startswith(b"PK"):
        _check_zip(path)
        return "torch"
    if _is_safetensors(head):
        return "safetensors"
    if head[0] == pickle.PROTO[0] and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "torch"
    raise _other_kind(path, head)


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        raise UsageError(str(path), "is a folder", "give the file of weights that is in it")
    if path.is_file():
        return
    if path.with_name(f"{path.name}.index").is_file():
        raise UsageError(str(path), "belongs to a TensorFlow checkpoint", _TENSORFLOW)
    raise UsageError(str(path), "no such file", "check the path; a relative one starts at the YAML file, or where the program was called")


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as e:
        raise UsageError(str(path), f"cannot be opened ({e.strerror})", "make the file readable") from e


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 10**8


def _other_kind(path: Path, head: bytes) -> UsageError:
    where = str(path)
    for magic, what, hint in _MAGIC:
        if head.startswith(magic):
            return UsageError(where, what, hint)
    if re.search(r"\.(index|meta|data-\d{5}-of-\d{5})$", path.name) or _ends_like_a_table(path):
        return UsageError(where, "belongs to a TensorFlow checkpoint", _TENSORFLOW)
    text = _as_text(head)
    if text is None:
        return UsageError(where, f"is no file of weights (it begins with {head[:8].hex(' ')})", "give a file that torch.save wrote")
    if text.startswith("<"):
        return UsageError(where, "is a web page, not weights: the download did not work", "open the link in a browser and save the file")
    return UsageError(where, f"is a text file, not weights (it begins with {text[:40]!r})", _RETRY)


def _as_text(head: bytes) -> str | None:
    """The beginning of a text file; None when it is none."""
    text = head.decode("utf-8", "ignore")
    printable = all(c.isprintable() or c in "\t\r\n\ufeff" for c in text)
    return text.lstrip("\ufeff \t\r\n") if printable and len(text.encode()) > len(head) - 4 else None


def _ends_like_a_table(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8))
        return file.read() == _TABLE_END


def _check_zip(path: Path) -> None:
    """Refuse zip archives that are cut off, damaged, or not what ``torch.save`` writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                hint = "where it was made, write its weights alone: torch.save(torch.jit.load(file).state_dict(), 'weights.pth')"
                raise UsageError(str(path), "is a TorchScript archive: a program, which is never run", hint)
            if not any(name.endswith("/data.pkl") for name in names):
                raise UsageError(str(path), f"is a zip archive without weights of PyTorch (it holds {', '.join(names[:3])})", _UNPACK)
            _check_sums(archive)
    except (zipfile.BadZipFile, OSError, *_DAMAGED) as e:
        if "not a zip file" in str(e):
            raise UsageError(str(path), f"is cut off: the archive has no end after {path.stat().st_size} bytes", _RETRY) from e
        raise UsageError(str(path), f"is damaged: the archive cannot be unpacked ({e})", _RETRY) from e


def _check_sums(archive: zipfile.ZipFile) -> None:
    """Torch does not compare checksums on reading; 0 stands for one that was not computed."""
    for entry in archive.infolist():
        if entry.CRC:
            with archive.open(entry) as file:
                while file.read(1 << 20):
                    pass


def _load(path: Path, kind: str) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if kind == "safetensors":
        try:
            return load_file(path)
        except SafetensorError as e:
            raise UsageError(str(path), f"is a damaged safetensors file ({e})", _RETRY) from e
    try:
        return _unpickled(path)
    except _DAMAGED as e:
        raise _unreadable(path, e) from e


def _unpickled(path: Path) -> Any:
    """The content of a torch file; beside tensors and plain values it may hold numbers and arrays of NumPy, as training states do."""
    import numpy as np
    import torch
    from numpy._core.multiarray import _reconstruct, scalar  # what NumPy itself writes into pickles

    moved = [(f, f"numpy.{core}.multiarray.{f.__name__}") for f in (_reconstruct, scalar) for core in ("core", "_core")]
    numbers = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdSU"]
    safe = torch.serialization.safe_globals([*moved, np.dtype, np.ndarray, *numbers])
    with warnings.catch_warnings(), safe, path.open("rb") as file:  # given a path, torch would look at its suffix
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", weights_only=True)


def _unreadable(path: Path, error: BaseException) -> UsageError:
    text = str(error)
    code = re.search(r"GLOBAL ([\w.]+)", text)
    if code:
        return UsageError(str(path), f"needs the Python code '{code[1]}' to be read, and code in a file is never run", _CONVERT)
    if "Unsupported operand" in text:
        return UsageError(str(path), "is a pickle that torch.save did not write", _CONVERT)
    reason = (re.findall(r"error: (.+)", text) or [text.partition("\n")[0]])[0]
    return UsageError(str(path), f"is damaged or cut off ({type(error).__name__}: {reason:.100})", _RETRY)


def _unwrapped(path: Path, content: Any) -> Mapping[Any, Any]:
    """The mapping that holds the weights."""
    inner = [content[wrapper] for wrapper in WRAPPERS if _holds_weights(content.get(wrapper))] if isinstance(content, Mapping) else []
    if inner:
        return _unwrapped(path, inner[0])
    if not _holds_weights(content):
        holds = f"'{type(content).__name__}'" if not isinstance(content, Mapping) else ", ".join(map(repr, list(content)[:5])) or "nothing"
        raise UsageError(str(path), f"it holds no weights by name (it holds {holds})", _CONVERT)
    if any(map(_is_tensor, content.values())):
        return dict(content)
    parts = [name for name, value in content.items() if _holds_weights(value)]
    if len(parts) > 1:
        what = f"it holds several sets of weights: {', '.join(map(repr, parts[:5]))}"
        raise UsageError(str(path), what, "write the one that restores images into a file of its own")
    return _unwrapped(path, content[parts[0]])


def _holds_weights(value: object, depth: int = 5) -> bool:
    """Whether tensors lie in ``value``, a mapping of mappings at most that deep: a pickle may hold itself."""
    return isinstance(value, Mapping) and depth > 0 and any(_is_tensor(v) or _holds_weights(v, depth - 1) for v in value.values())


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
