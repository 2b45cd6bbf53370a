"""Reading the arrays of a bundle."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_array(path: Path) -> NDArray[Any]:
    """Array of a ``.npy`` file, or of one that xz packed (``.npy.xz``); nothing in it is executed."""
    import numpy as np

    if path.suffix != ".xz":
        plain: NDArray[Any] = np.load(path, allow_pickle=False)
        return plain
    with lzma.open(path) as f:
        found: NDArray[Any] = np.lib.format.read_array(f, allow_pickle=False)
        return found
