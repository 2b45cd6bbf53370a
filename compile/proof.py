"""What parity is shown at: tiles of images, and what the network's own files make of them."""

from __future__ import annotations

from collections.abc import Sequence

from compile.onnxruntime.backend import OnnxSession
from compile.parity import Batch
from compile.pictures import Tiles
from compile.source import Source, source_file
from eval.quality import psnr, to_batch, to_image
from pipeline.contract import PairSource
from quantize.artifact import ModelFolder

PARITY_TILES = 4
"""Images that parity is shown at, by a tile of each: a wrong layer shows at any of them."""

Size = tuple[int, int]


class Proof:
    """Tiles of the first images of a set, of any size that an artifact takes, and the outputs of the network as it is written.

    Args:
        folder: the network.
        source: the images.
        split: what that set is called.

    """

    def __init__(self, folder: ModelFolder, source: PairSource, split: str) -> None:
        self.folder, self.source, self.split = folder, source, split
        self._tiles: dict[Size, Tiles] = {}
        self._outputs: dict[tuple[Source, Size], list[Batch]] = {}

    def tiles(self, size: Size) -> Tiles:
        """Pairs of tiles; ``size`` is height and width in pixels."""
        if size not in self._tiles:
            self._tiles[size] = Tiles(self.source, PARITY_TILES, size)
        return self._tiles[size]

    def batches(self, size: Size) -> list[Batch]:
        """The blurred ones, float32 [1, 3, H, W] in [0, 1]."""
        tiles = self.tiles(size)
        return [to_batch(tiles[i].lq) for i in range(len(tiles))]

    def outputs(self, source: Source, size: Size) -> list[Batch]:
        """What a file of the network makes of them, run node by node."""
        if (source, size) not in self._outputs:
            with OnnxSession(source_file(self.folder, source), optimise=False) as session:
                self._outputs[source, size] = [session.run(x) for x in self.batches(size)]
        return self._outputs[source, size]

    def psnr(self, outputs: Sequence[Batch], size: Size) -> tuple[float, ...]:
        """PSNR in dB of outputs against the sharp tiles; raises StageFailed for one that is not finite."""
        tiles = self.tiles(size)
        return tuple(psnr(to_image(out), tiles[i].gt) for i, out in enumerate(outputs))
