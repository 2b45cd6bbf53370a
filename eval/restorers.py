"""What a user may name to have images restored: a checkpoint, published weights or a bundle, opened into one kind of function."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from eval.quality import Image
from eval.receptive import Receptive, receptive_field
from eval.tiling import OnTile, Overlap, Run, TilePlan, overlap_for, restore_tiled, roomy_tile, tile_plan
from pipeline.errors import StageFailed, ToolchainMissing, UsageError
from pipeline.machine import cores

if TYPE_CHECKING:
    from torch import nn

    from eval.bundle import Bundle

WHOLE_PIXELS = 1920 * 1088
"""Largest image that a network of free input size restores in one piece when no tile size is asked for."""

AUTO_TILE, LARGEST_TILE = 1024, 1440
"""Side of the tiles, in pixels, for larger ones, and how far it grows where the network's halo asks for it."""


class Restorer:
    """Restores images of any size: uint8 RGB [H, W, 3] -> the same, rounded and clipped.

    Args:
        name: the file or folder that it came from.
        facts: small JSON about it.
        run: the network on one tile.
        receptive: computes how far the network sees; called once, when the first image is cut.
        multiple: sides of its input must be multiples of this.
        fixed: the only input size (height, width) that it takes; None when it takes any.
        tile: side of the tiles asked for, in pixels; 0 decides by the image's size.
        padding: how an image is extended to a multiple: reflect, replicate or zero.
        close: frees it.

    Raises:
        UsageError: a tile size other than the only one it takes, or no multiple.

    """

    def __init__(
        self,
        name: str,
        facts: Mapping[str, Any],
        run: Run,
        receptive: Callable[[], Receptive],
        *,
        multiple: int = 1,
        fixed: tuple[int, int] | None = None,
        tile: int = 0,
        padding: str = "reflect",
        close: Callable[[], None] = lambda: None,
    ) -> None:
        if tile and fixed is not None and fixed != (tile, tile):
            raise UsageError("--tile", f"{tile}, but {name} was built for {fixed[1]}x{fixed[0]} only", "leave --tile out")
        if tile < 0 or tile % multiple:
            hint = f"use a multiple, e.g. {max(multiple, tile // multiple * multiple)}"
            raise UsageError("--tile", f"{tile} is no multiple of {multiple}, as {name} needs", hint)
        self.name = name
        self.network = run
        self._facts, self._multiple, self._fixed, self._tile, self._close = dict(facts), multiple, fixed, tile, close
        self._padding, self._receptive, self._overlap = padding, cache(receptive), Overlap(0, 0)

    def __call__(self, image: Image, on_tile: OnTile | None = None) -> Image:
        """Restore one image; ``on_tile`` is told how many of its tiles are done.

        Raises:
            StageFailed: the network returns NaN.

        """
        height, width = image.shape[:2]
        padded = extended(image, self._multiple, self._padding)
        out = restore_tiled(padded, self.network, self.plan(*padded.shape[:2]), on_tile)
        return np.ascontiguousarray(out[:height, :width])

    def plan(self, height: int, width: int) -> TilePlan:
        """How an image of that size is cut.

        Raises:
            StageFailed: the network's halo cannot be computed, since it cannot be exported.
            ToolchainMissing: onnx is not installed; only where the image must be cut.

        """
        tile = self._fixed or self._free_tile(height, width)
        cut = [side for side, length in zip(tile, (height, width), strict=True) if self._rounded(length) > side]
        self._overlap = overlap_for(self._receptive(), min(self._fixed or cut)) if cut else Overlap(0, 0)
        return tile_plan(height, width, tile, self._overlap.halo, self._multiple, self._overlap.blend)

    def cutting(self, height: int, width: int) -> str:
        """Why an image of that size is cut, and how, in one line; empty when it is not. Raises as ``plan``."""
        plan = self.plan(height, width)
        if len(plan) == 1:
            return ""
        sides = f"{plan.tile_width}x{plan.tile_height}"
        size = "the network takes no other size" if self._fixed else "as --tile asks" if self._tile else "it is larger than full HD"
        text = f"{width}x{height} is cut into {len(plan)} tiles of {sides}, {size}; they overlap by {self._overlap.halo} pixels a side"
        if not self._overlap.why:
            return f"{text}, as far as the network sees, so nothing is lost"
        return f"{text}{f' and are mixed over {plan.blend}' * (plan.blend > 0)}: {self._receptive().beyond(self._overlap.halo)}"

    def describe(self) -> dict[str, Any]:
        """Name, kind, what is known of the network and of what runs it, and how the last image was cut, if it was."""
        facts = {"name": self.name, **self._facts, "tile": list(self._fixed) if self._fixed else self._tile or None}
        return facts | ({"overlap": asdict(self._overlap)} if self._overlap.halo else {})

    def close(self) -> None:
        """Free the network."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _rounded(self, length: int) -> int:
        return -(-length // self._multiple) * self._multiple

    def _free_tile(self, height: int, width: int) -> tuple[int, int]:
        whole = self._rounded(height), self._rounded(width)
        side = self._tile or (max(whole) if whole[0] * whole[1] <= WHOLE_PIXELS else self._auto_tile())
        return (min(whole[0], side), min(whole[1], side))

    def _auto_tile(self) -> int:
        largest = max(self._multiple, LARGEST_TILE // self._multiple * self._multiple)
        return min(roomy_tile(self._receptive(), AUTO_TILE, self._multiple), largest)


def extended(image: Image, multiple: int, padding: str) -> Image:
    """An image with sides of multiples, right and bottom added: zeros, or the border repeated; mirroring is left to the tiles."""
    modes: dict[str, Any] = {"zero": "constant", "replicate": "edge"}
    bottom, right = (-side % multiple for side in image.shape[:2])
    if padding not in modes or not (bottom or right):
        return image
    return np.pad(image, ((0, bottom), (0, right), (0, 0)), mode=modes[padding])


def open_restorer(path: Path, *, tile: int = 0, threads: int = 0, faithful: bool = False) -> Restorer:
    """Open a checkpoint, published weights, or a bundle (or the run directory that holds one).

    Args:
        path: a checkpoint, a file of published weights, a bundle folder, or a run directory.
        tile: side of the tiles in pixels; 0 restores images whole up to full HD and tiles larger ones.
        threads: CPU threads; 0 takes all cores.
        faithful: of a bundle open what stands for the target's artifact, not the artifact meant for this machine.

    Raises:
        UsageError: none of these, or damaged.
        ToolchainMissing: what runs it is not installed.

    """
    hint = "name a checkpoint, published weights (.pth), a bundle folder, or a run directory"
    if not path.exists():
        raise UsageError(str(path), "no such file or folder", hint)
    threads = threads or cores()
    if path.is_file():
        return _from_checkpoint(path, tile, threads)
    for folder in (path, path / "bundle"):
        if any((folder / name).is_file() for name in ("bundle.json", "MANIFEST.sha256")):
            return _from_bundle(folder, tile, threads, faithful)
    raise UsageError(str(path), "is a folder, but no bundle", hint)


def _from_checkpoint(path: Path, tile: int, threads: int) -> Restorer:
    try:
        import torch
    except ModuleNotFoundError as e:
        raise ToolchainMissing(str(path), "a checkpoint runs on PyTorch, which is not installed", 'pip install -e ".[train]"') from e
    from eval.cost import count_params
    from models import load_checkpoint
    from models.spec import padding_of, size_multiple

    torch.set_num_threads(threads)
    teacher = load_checkpoint(path)
    module = teacher.network.to("cuda" if torch.cuda.is_available() else "cpu").requires_grad_(False)
    facts = {"kind": "checkpoint", "arch": teacher.arch, "precision": "fp32", "backend": "torch", "params": count_params(module)}
    options: dict[str, Any] = {"multiple": size_multiple(module), "tile": tile, "padding": padding_of(module)}
    return Restorer(str(path), facts, torch_run(module), lambda: module_receptive(module), **options)


def _from_bundle(path: Path, tile: int, threads: int, faithful: bool) -> Restorer:
    from eval.bundle import Bundle

    bundle = Bundle.open(path)
    return bundle_restorer(bundle, bundle.facts.chosen if faithful else bundle.facts.host, threads, tile)


def bundle_restorer(bundle: Bundle, name: str = "", threads: int = 1, tile: int = 0) -> Restorer:
    """Open what stands for an artifact of a bundle on this machine, by default for the one chosen for the target."""
    artifact = bundle.artifact(name)
    session = bundle.session(artifact.name, threads)
    facts = {
        "kind": "bundle",
        "artifact": artifact.name,
        "target": bundle.facts.target,
        "precision": artifact.precision,
        "backend": str(artifact.evaluation.facts["backend"]).rpartition(".")[2],
        "stands_in": artifact.stands_in,
    }
    multiple = bundle.facts.network.size_multiple
    reach = partial(receptive_field, bundle.path / artifact.reference, multiple)
    fixed = (session.height, session.width) if session.height else None
    return Restorer(str(bundle.path), facts, session.run, reach, multiple=multiple, fixed=fixed, tile=tile, close=session.close)


def module_receptive(module: nn.Module) -> Receptive:
    """How far a network sees, from its ONNX export.

    Raises:
        StageFailed: it cannot be exported.
        ToolchainMissing: onnx is not installed.

    """
    import torch

    from eval.receptive import require_onnx
    from models.export import export_onnx
    from models.spec import size_multiple

    require_onnx()
    with tempfile.TemporaryDirectory() as folder:
        try:
            export_onnx(module, Path(folder) / "network.onnx")
        except (RuntimeError, TypeError, torch.onnx.errors.OnnxExporterError) as e:
            what = f"the network cannot be exported to ONNX, which tells how tiles must overlap ({str(e).splitlines()[0]:.120})"
            raise StageFailed(type(module).__name__, what, "restore images of up to full HD, which are not cut") from e
        return receptive_field(Path(folder) / "network.onnx", size_multiple(module))


def torch_run(module: nn.Module) -> Run:
    """A network in eval mode as a function on numpy batches, on whatever device it lies."""
    import torch
    from numpy.typing import NDArray

    device = next((p.device for p in module.parameters()), torch.device("cpu"))

    def run(lq: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            out: NDArray[np.float32] = module(torch.from_numpy(lq).to(device)).float().cpu().numpy()
        return out

    return run
