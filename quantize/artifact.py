"""The folder that ``quantize`` hands on: one network as ONNX files, its scales and its checkpoint.

::

    model.json               facts: see ``ModelFacts``
    float.onnx               fp32, batch 1, any height and width
    qdq_s8.onnx              Q/DQ flavour for TensorRT: signed 8 bit, zero points 0 (*)  (absent when the network stayed in float)
    qdq_u8.onnx              Q/DQ flavour for ONNX Runtime: unsigned 8 bit, same scales  (absent when the network stayed in float)
    quantization.json        scales of every tensor by name                             (absent when the network stayed in float)
    checkpoint.safetensors   the network of float.onnx: the stage's input, batch norm folded (``models.checkpoint``)

(*) Where ``unsigned`` of the facts says so, tensors that cannot be negative have a zero point of -128, which TensorRT does not take.

Reading the folder needs neither torch nor onnx.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import StageFailed

Flavour = Literal["s8", "u8"]

SCHEMA = 1
MODEL_JSON, SCALES_JSON, CHECKPOINT, FLOAT = "model.json", "quantization.json", "checkpoint.safetensors", "float.onnx"


class ModelFacts(BaseModel):
    """What a consumer needs to know before it opens a file of the folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: int = Field(default=SCHEMA, alias="schema", description="version of this file")
    arch: str = Field(description="architecture of the network")
    size_multiple: int = Field(ge=1, description="height and width of the input must be multiples of this")
    opset: int = Field(ge=1, description="ONNX opset of the files")
    precisions: tuple[str, ...] = Field(description="fp32, and int8 when the Q/DQ files are there")
    input: str = Field(default="lq", description="name of the input: float32 [1, 3, H, W] in [0, 1], RGB")
    output: str = Field(default="restored", description="name of the output: float32 [1, 3, H, W], unclamped")
    quantized_convs: int = Field(default=0, ge=0, description="convolutions that run in int8")
    quantized_tensors: int = Field(default=0, ge=0, description="activation tensors that are int8")
    unsigned: bool = Field(default=False, description="tensors that cannot be negative have 255 steps above 0: zero points other than 0")
    float_tensors: tuple[str, ...] = Field(default=(), description="activation tensors that were put back to float")
    scale_range: tuple[float, float] = Field(default=(0.0, 0.0), description="smallest and largest activation scale")


class ModelFolder:
    """A model folder on disk, read-only.

    Raises:
        StageFailed: the folder holds no readable ``model.json``, or lacks a file that it promises.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts = _read_facts(path / MODEL_JSON)
        self._require(FLOAT)
        if self.has_int8:
            for name in ("qdq_s8.onnx", "qdq_u8.onnx", SCALES_JSON):
                self._require(name)

    @property
    def float(self) -> Path:
        """The fp32 ONNX file."""
        return self.path / FLOAT

    @property
    def has_int8(self) -> bool:
        """Whether the Q/DQ files are there."""
        return "int8" in self.facts.precisions

    @property
    def size_multiple(self) -> int:
        """Height and width of the input must be multiples of this."""
        return self.facts.size_multiple

    @property
    def checkpoint(self) -> Path:
        """The network of the float file: batch norm folded."""
        return self.path / CHECKPOINT

    def qdq(self, flavour: Flavour) -> Path:
        """The Q/DQ ONNX file: "s8" for TensorRT, "u8" for ONNX Runtime; raises StageFailed when the network stayed in float."""
        if flavour not in ("s8", "u8"):
            raise StageFailed(str(self.path), f"unknown flavour '{flavour}'", "s8 (TensorRT) or u8 (ONNX Runtime)")
        if not self.has_int8:
            raise StageFailed(
                str(self.path), "this network stayed in float: there is no int8 file", "use its float file, or relax quantize's max_drop"
            )
        return self.path / f"qdq_{flavour}.onnx"

    def scales(self) -> dict[str, Any]:
        """The content of ``quantization.json``: ``{"activations": {name: {...}}, "weights": {name: {...}}}``."""
        self.qdq("s8")
        content: dict[str, Any] = json.loads((self.path / SCALES_JSON).read_text())
        return content

    def _require(self, name: str) -> None:
        if not (self.path / name).is_file():
            raise StageFailed(str(self.path), f"'{name}' is missing from the model folder", "run the quantize stage again")


def write_facts(path: Path, facts: ModelFacts) -> None:
    """Write ``model.json`` into the folder ``path``."""
    _write_json(path / MODEL_JSON, facts.model_dump(mode="json", by_alias=True))


def write_scales(path: Path, content: dict[str, Any]) -> None:
    """Write ``quantization.json`` into the folder ``path``."""
    _write_json(path / SCALES_JSON, content)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def _read_facts(path: Path) -> ModelFacts:
    try:
        return ModelFacts.model_validate(json.loads(path.read_text()))
    except FileNotFoundError as e:
        raise StageFailed(str(path), "no such file: this is not a model folder", "pass the folder that the quantize stage wrote") from e
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError) as e:
        raise StageFailed(str(path), f"is damaged ({str(e).splitlines()[0]})", "run the quantize stage again") from e
