"""Whether this device computes what the machine computed that made the bundle."""

import math
from typing import Any

import numpy as np
from board.basics import HERE, DeviceError, Json, load_array


def golden_input(artifact: Json) -> Any:
    """The golden input as float32 [1, 3, H, W] in [0, 1]."""
    return load_array(HERE / artifact["golden"]["input"]).astype(np.float32) * np.float32(1 / 255)


def golden_psnr(got: Any, artifact: Json) -> float:
    """PSNR in dB of an output against the golden one; infinite when they are equal, NaN when either holds a NaN."""
    want = load_array(HERE / artifact["golden"]["expected"])
    if got.shape != want.shape:
        raise DeviceError("the output is {}, the golden one {}".format(got.shape, want.shape))
    return psnr(got, want)


def psnr(got: Any, want: Any) -> float:
    """PSNR in dB of [1, 3, H, W] in [0, 1]; where ``want`` is uint8 the other is rounded to 8 bits too."""
    peak = 1.0
    if want.dtype == np.uint8:
        if not np.isfinite(got).all():
            return math.nan
        got, peak = np.rint(np.clip(got, 0, 1) * 255), 255.0
    mse = float(np.mean(np.square(got.astype(np.float64) - want))) / peak**2
    return math.inf if mse == 0 else -10 * math.log10(mse) if math.isfinite(mse) else math.nan
