"""Libraries for other CPUs: which instructions they use, told from the assembly."""

from __future__ import annotations

import platform
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from compile.tvm import BACKEND
from compile.tvm.backend import _source, compiled, target_dict
from compile.tvm.count import assembly, functions, inner_loops
from compile.tvm.cpu import cpu_of, target_of
from eval.session import BuildRequest
from pipeline.target import Target, load_target
from quantize.artifact import ModelFolder

SIZE = (32, 48)


def executable(folder: Path, precision: str, board: Target) -> Any:
    request = BuildRequest(folder, precision, *SIZE, board, folder)
    kind = target_dict(request)
    return compiled(request, kind, _source(request, kind))[1]


def loops(folder: Path, precision: str, board: str) -> Counter[str]:
    """Classes of the instructions in all innermost loops, and "loops" with how many of them multiply."""
    found = [c for c in inner_loops(assembly(executable(folder, precision, load_target(board)))) if set(c.classes) - {"scalar"}]
    return sum((c.classes for c in found), Counter({"loops": len(found)}))


def test_int8_uses_the_dot_product_where_there_is_one(model_folder: Path):
    seen = loops(model_folder, "int8", "raspberry-pi-5")
    assert seen["loops"] > 3
    assert seen["dot"] > 500
    assert seen["scalar"] < seen["dot"] / 20  # a few compute addresses


def test_int8_widens_where_there_is_none(model_folder: Path):
    seen = loops(model_folder, "int8", "jetson-xavier")
    assert seen["dot"] == 0
    assert seen["widening"] > 500
    assert seen["scalar"] < seen["widening"] / 20


def test_the_integers_and_scales_are_in_a_library_that_does_not_run_here(model_folder: Path, jetson: Target, tmp_path: Path):
    built = BACKEND.build(BuildRequest(model_folder, "int8", *SIZE, jetson, tmp_path))
    assert (built.facts["source"], built.facts["runs_here"]) == ("s8", platform.machine() == "aarch64" and built.facts["runs_here"])
    assert BACKEND.differences(built, ModelFolder(model_folder)) == []


@pytest.mark.parametrize(("precision", "half"), [("fp16", True), ("fp32", False)])
def test_floats_use_vector_multiply_adds_of_their_width(precision: str, half: bool, model_folder: Path):
    seen = loops(model_folder, precision, "raspberry-pi-5")
    assert seen["fma"] > 500
    kernels = functions(assembly(executable(model_folder, precision, load_target("raspberry-pi-5")))).values()
    multiply = [c.classes for c in kernels if c.classes["fma"]]
    assert (sum(c["half"] >= c["fma"] for c in multiply) > 0.8 * len(multiply)) is half  # resizing stays in fp32
    assert seen["scalar"] < seen["fma"] / 20


X86 = """
main:
\t.cfi_startproc
\tpushq\t%rbp
.LBB0_1:
\tmovl\t$1, %eax
.LBB0_2:                                # inner
\tvpdpbusd\t(%rdi), %zmm1, %zmm2 # comment
\tvfmadd231ps\t%zmm0, %zmm1, %zmm2
\tjne\t.LBB0_2
\tvfmadd231ss\t%xmm0, %xmm1, %xmm2
\tjmp\t.LBB0_1
\tretq
other:
\timulq\t%rax, %rcx
"""

ARM = "f:\n.LBB1_1:\n\tsdot\tv0.4s, v1.16b, v2.4b[1]\n\tfmla\tv0.8h, v1.8h, v2.h[0]\n\tmadd\tx0, x1, x2, x3\n\tcbnz\tx0, .LBB1_1\n\tret\n"


def test_instructions_are_counted_by_class_in_innermost_loops():
    assert functions(X86)["main"].classes == Counter(dot=1, fma=1, scalar=1)
    assert set(functions(X86)) == {"main", "other"}
    (inner,) = inner_loops(X86)
    assert (inner.classes, inner.total) == (Counter(dot=1, fma=1), 3)
    (loop,) = inner_loops(ARM)
    assert loop.classes == Counter(dot=1, fma=1, half=1, scalar=1)


@pytest.mark.parametrize(
    ("mcpu", "triple", "form", "flavour", "half"),
    [
        ("cascadelake", "x86_64-linux-gnu", "vnni512", "u8", False),
        ("alderlake", "x86_64-linux-gnu", "vnni256", "u8", False),
        ("haswell", "x86_64-linux-gnu", "avx2", "u8", False),
        ("x86-64", "x86_64-linux-gnu", "plain", "u8", False),
        ("cortex-a76", "aarch64-linux-gnu", "sdot", "s8", True),
        ("cortex-a72", "aarch64-linux-gnu", "smull", "s8", False),
        ("carmel", "aarch64-linux-gnu", "smull", "s8", True),
    ],
)
def test_the_form_of_a_cpu(mcpu: str, triple: str, form: str, flavour: str, half: bool):
    import tvm

    cpu = cpu_of(tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": mcpu}))
    assert (cpu.form, cpu.flavour, cpu.half) == (form, flavour, half)


@pytest.mark.parametrize(("mcpu", "keeps"), [("carmel", True), ("cortex-a72", True), ("cortex-a53", False), ("cortex-a76", False)])
def test_the_order_of_kernels_is_kept_where_products_need_registers(mcpu: str, keeps: bool):
    target = target_of({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": mcpu, "mattr": ["+neon"]})
    assert ("+disable-latency-sched-heuristic" in target.attrs["mattr"]) is keeps
    assert "+neon" in target.attrs["mattr"]
