"""Published weights: which architecture they belong to, read from their names and shapes alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import checkpoint
from models.arch import build, known_archs, load_arch, parse_config
from models.restore import restore
from models.spec import Shapes
from models.weights import has_header, is_counter, name_forms, read_state
from pipeline.errors import UsageError

SHOWN = 3
"""How many names of each kind an error lists."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """A network with its weights: eval mode, float32, on the CPU.

    network  under the pipeline's convention: RGB in [0, 1], any batch, sides multiples of its ``size_multiple``
    module   the part of it with the published names, input range and outputs; it shares the weights
    arch     folder in ``models/``, or ``package.module:Class``
    config   the architecture's configuration, JSON
    """

    network: nn.Module
    module: nn.Module
    arch: str
    config: dict[str, Any]

    def restore(self, lq: Tensor) -> Tensor:
        """Restore images of any size: padded right and bottom as the published code does, restored, cropped back.

        Args:
            lq: float32 [N, 3, H, W], RGB in [0, 1].

        Returns:
            float32 [N, 3, H, W], clamped only where the network itself does so.

        Raises:
            UsageError: another dtype or shape.
        """
        if lq.dtype != torch.float32 or lq.dim() != 4 or lq.shape[1] != 3 or 0 in lq.shape:
            found = f"is {str(lq.dtype).removeprefix('torch.')} {list(lq.shape)}"
            raise UsageError("lq", found, "give float32 [N, 3, height, width], RGB in [0, 1]")
        return restore(self.network, lq)


@dataclass(frozen=True, slots=True)
class _Reading:
    """Weights, and what an architecture reads in them; ``part`` is the part of its network that they belong to."""

    arch: str
    config: dict[str, Any]
    state: Mapping[str, Tensor]
    part: Callable[[nn.Module], nn.Module]


@dataclass(frozen=True, slots=True)
class _Differences:
    """What separates the weights from a network: names, and names with the shape found and the shape wanted."""

    missing: list[str]
    unexpected: list[str]
    reshaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]]

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)

    def __str__(self) -> str:
        shapes = [f"'{name}' {list(found)} instead of {list(wanted)}" for name, found, wanted in self.reshaped]
        parts = (
            ("missing", [f"'{name}'" for name in self.missing]),
            ("unexpected", [f"'{name}'" for name in self.unexpected]),
            ("of another shape", shapes),
        )
        return "; ".join(f"{len(names)} {kind}: {_first(names)}" for kind, names in parts if names)


def load_checkpoint(path: str | Path, arch: str | None = None, **config: Any) -> Teacher:
    """A network from a file of published weights, or from one of the pipeline's own checkpoints.

    Args:
        path: what ``torch.save`` wrote, or safetensors; any suffix. No pickle is ever executed.
        arch: folder in ``models/`` or ``package.module:Class``; by default found from the names of the weights.
        config: keys of the architecture beside what the shapes say, such as ``tlc=256`` or ``statistics="instance"``.

    Raises:
        UsageError: a file that cannot be read as weights; weights that fit no architecture, or not ``arch``; an unknown key, or a
            value that contradicts the weights.
    """
    path = Path(path)
    own = has_header(path)
    readings = _own(path, arch) if own else _foreign(path, arch)
    reading, network = _fitting(path, readings, config, arch)
    part = reading.part(network)
    part.load_state_dict(reading.state, strict=False)
    merged = parse_config(reading.arch, {**reading.config, **config}).model_dump(mode="json", exclude_unset=own)
    return Teacher(network.eval(), load_arch(reading.arch).official(network), reading.arch, merged)


def _own(path: Path, arch: str | None) -> list[_Reading]:
    """The one reading of a checkpoint of the pipeline: its header."""
    loaded = checkpoint.load(path)
    if arch is not None and arch != loaded.arch:
        raise UsageError(str(path), f"holds a '{loaded.arch}', not a '{arch}'", "leave arch out: the file says what it holds")
    return [_Reading(loaded.arch, loaded.config, loaded.module.state_dict(), lambda network: network)]


def _foreign(path: Path, arch: str | None) -> list[_Reading]:
    """What each architecture reads in the weights; one that is asked for by name is a reading even where it reads nothing."""
    forms = list(name_forms(read_state(path)))
    readings = []
    for name in known_archs() if arch is None else [arch]:
        spec = load_arch(name)
        found = [_Reading(name, config, form, spec.official) for form in forms if (config := spec.read(_shapes(form))) is not None]
        readings += found or ([_Reading(name, {}, form, spec.official) for form in forms] if arch is not None else [])
    if readings:
        return readings
    raise _unknown(path, forms)


def _fitting(path: Path, readings: Sequence[_Reading], keys: Mapping[str, Any], arch: str | None) -> tuple[_Reading, nn.Module]:
    """The one reading that fits with the caller's keys, and its freshly built network."""
    errors: list[UsageError] = []
    fitting = []
    for reading in readings:
        try:
            if not _differences(reading, keys):
                fitting.append(reading)
        except UsageError as e:
            errors.append(e)
    archs = sorted({reading.arch for reading in fitting})
    if len(archs) > 1:
        raise UsageError(str(path), f"fits {' and '.join(archs)} alike", f"say which it is: arch='{archs[0]}'")
    if fitting:
        with torch.random.fork_rng(devices=[]):
            return fitting[0], build(fitting[0].arch, {**fitting[0].config, **keys})
    for reading in readings:
        if keys and _fits_alone(reading):
            _refuse_keys(path, reading, keys)
    if errors and len({reading.arch for reading in readings}) == 1:
        raise errors[0]
    raise _misfit(path, readings, keys, asked=arch is not None)


def _fits_alone(reading: _Reading) -> bool:
    try:
        return not _differences(reading, {})
    except UsageError:
        return False


def _refuse_keys(path: Path, reading: _Reading, keys: Mapping[str, Any]) -> None:
    """Raise for the key that is unknown, has a bad value or contradicts the weights, which fit without it."""
    found = parse_config(reading.arch, reading.config).model_dump(mode="json")
    for key, value in keys.items():
        try:
            if not _differences(reading, {key: value}):
                continue
        except UsageError as e:
            if key in e.where:
                raise
        what = f"its weights say {key} = {json.dumps(found.get(key))}, not {value!r}"
        raise UsageError(str(path), what, f"leave {key} out: it is read from the weights")


def _misfit(path: Path, readings: Sequence[_Reading], keys: Mapping[str, Any], asked: bool) -> UsageError:
    """Weights that an architecture recognises, or was asked to, but that are not complete or not its own."""
    measured = _measured(readings, keys)
    if not measured or min(len(differences) for _, differences in measured) > SHOWN:
        measured += _measured([other for reading in readings for other in _rereadings(reading)], keys)
    if not measured or not any(reading.config for reading in readings):
        measured += _measured([other for reading in readings for other in _usual(reading)], keys)
    arch, differences = min(measured, key=lambda pair: len(pair[1]))
    what = f"does not fit {arch}: {differences}" if asked else f"looks like {arch}, but does not fit: {differences}"
    return UsageError(str(path), what, f"give complete weights of {arch}, or name a class of your own: arch='package.module:Class'")


def _unknown(path: Path, forms: Iterable[dict[str, Tensor]]) -> UsageError:
    """Weights that no architecture recognises: the nearest one by the kinds of names."""
    usual = [u for name in known_archs() for form in forms for u in _usual(_Reading(name, {}, form, load_arch(name).official))]
    near = max(usual, key=lambda u: _alike(u.state, _meta_shapes(u, {})))
    share = _alike(near.state, _meta_shapes(near, {}))[0]
    arch, differences = min(
        _measured([u for u in usual if u.arch == near.arch and u.state is near.state], {}), key=lambda pair: len(pair[1])
    )
    what = f"fits no known architecture; the nearest is {arch} ({share:.0%} of the kinds of names are the same): {differences}"
    return UsageError(str(path), what, f"known: {', '.join(known_archs())}; or name a class of your own: arch='package.module:Class'")


def _rereadings(reading: _Reading) -> Iterator[_Reading]:
    """What else can be read in the weights: one damaged shape must not decide the configuration of all others."""
    seen = [reading.config]
    for shapes in _altered(_shapes(reading.state)):
        config = load_arch(reading.arch).read(shapes)
        if config is not None and config not in seen:
            seen.append(config)
            yield _Reading(reading.arch, config, reading.state, reading.part)


def _altered(shapes: Shapes) -> Iterator[Shapes]:
    """The shapes without each one of them, and with each weight as long as its bias."""
    for name, shape in shapes.items():
        yield {other: kept for other, kept in shapes.items() if other != name}
        bias = shapes.get(f"{name.removesuffix('weight')}bias", ())
        if name.endswith("weight") and bias and shape[:1] != bias:
            yield {**shapes, name: (*bias, *shape[1:])}


def _usual(reading: _Reading) -> list[_Reading]:
    """The weights held against the architecture's default configuration, its smallest one and its variants."""
    spec = load_arch(reading.arch)
    configs = [{}, dict(spec.small), *({**spec.small, **variant} for variant in spec.variants.values())]
    return [_Reading(reading.arch, config, reading.state, reading.part) for config in configs]


def _measured(readings: Iterable[_Reading], keys: Mapping[str, Any]) -> list[tuple[str, _Differences]]:
    """The differences of every reading whose configuration is valid with ``keys``, or else without them."""
    found = []
    for reading in readings:
        for extra in (keys, {}):
            try:
                found.append((reading.arch, _differences(reading, extra)))
            except UsageError:
                continue
            break
    return found


def _differences(reading: _Reading, keys: Mapping[str, Any]) -> _Differences:
    """Between the weights and the network of their configuration with ``keys``; raises UsageError when that is invalid."""
    wanted, found = _meta_shapes(reading, keys), _shapes(reading.state)
    return _Differences(
        [name for name in wanted if name not in found],
        [name for name in found if name not in wanted],
        [(name, found[name], shape) for name, shape in wanted.items() if found.get(name, shape) != shape],
    )


def _meta_shapes(reading: _Reading, keys: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    config = {**reading.config, **keys}
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if ":" in reading.arch else "meta"):
        return _shapes(reading.part(build(reading.arch, config)).state_dict())


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not is_counter(name)}


def _alike(found: Mapping[str, Any], wanted: Shapes) -> tuple[float, float]:
    """Shares of equal names, digits aside, and of equal parts of names: 1 when all agree, 0 when none do."""
    kinds = [{re.sub(r"\d+", "#", name) for name in names} for names in (found, wanted)]
    parts = [{part for kind in side for part in kind.split(".")} for side in kinds]
    return len(kinds[0] & kinds[1]) / len(kinds[0] | kinds[1]), len(parts[0] & parts[1]) / len(parts[0] | parts[1])


def _first(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
