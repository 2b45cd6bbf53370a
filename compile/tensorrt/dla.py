"""Why a network does not go to a Jetson's deep learning accelerator (DLA), in words.

Rules from "DLA Supported Layers and Restrictions" of TensorRT's documentation (8.2 to 11.4): fp16, or int8 with a calibration table
instead of Q/DQ nodes; poolings of at most 8 by 8; interpolation only by nearest or, since 8.5, bilinear half-pixel with integer factors; no
SpaceToDepth or DepthToSpace, which need more than a reordering of four axes. Each layer that falls back to the GPU cuts the network in
parts, with a copy at every cut, and a DLA's output differs from the GPU's in its bits.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

DLA_OPERATORS = frozenset({"Conv", "ConvTranspose", "Relu", "Clip", "Sigmoid", "Tanh", "Add", "Mul", "Sub", "Concat", "Resize", "MaxPool"})
"""Operators of ONNX that a DLA of any generation takes in some form."""

FREE = frozenset({"Constant", "Identity", "QuantizeLinear", "DequantizeLinear", "Cast"})

WITHOUT = {"sm_53": "a Jetson Nano or TX1", "sm_62": "a TX2"}


def dla_refusal(path: Path | None, arch: str, title: str, version: str, precision: str) -> str:
    """The reason.

    Args:
        path: the network as the GPU would get it; None before there is one.
        arch: CUDA architecture of the board's GPU, e.g. "sm_72".
        title: of the board.
        version: of TensorRT there.
        precision: "fp32", "fp16" or "int8".

    """
    absent = _no_dla(arch, title, version)
    if absent:
        return absent
    if precision == "fp32":
        return "a DLA computes in fp16 and int8 only"
    if precision == "int8":
        return (
            "a DLA takes no Q/DQ nodes: int8 there needs a calibration table, with which TensorRT chooses scales and layers itself, "
            "so nothing would show that it is the network that was judged"
        )
    if path is None:
        return "its DLA takes no SpaceToDepth, DepthToSpace, hard-swish or pooling of the whole image, at each of which it would be cut"
    missing = unsupported(path)
    if not missing:
        return "no layer speaks against it, but no DLA was ever measured here: its time and its accuracy are unknown"
    listed = ", ".join(f"{count} {op}" for op, count in missing.most_common())
    return f"its DLA does not take {listed}: each would cut the network in parts, with a copy through memory at every cut"


def unsupported(path: Path) -> Counter[str]:
    """How many nodes of an ONNX file no DLA takes, by operator."""
    import onnx

    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return Counter(n.op_type for n in nodes if n.op_type not in DLA_OPERATORS | FREE)


def _no_dla(arch: str, title: str, version: str) -> str:
    if arch in WITHOUT:
        return f"{WITHOUT[arch]} ({arch}) has no DLA"
    if arch == "sm_87" and "orin nano" in title.lower():
        return "an Orin Nano has no DLA"
    if version.partition(".")[0] == "11":
        return f"TensorRT {version}: 11.0 to 11.3 have no DLA at all, 11.4 on AGX Orin alone"
    return ""
