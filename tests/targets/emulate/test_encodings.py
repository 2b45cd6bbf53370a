from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from targets.emulate.encodings import classify, code_of

CODE = """
.globl f
f:
  sdot v0.4s, v1.16b, v2.16b
  udot v0.2s, v1.8b, v2.4b[1]
  smull v0.8h, v1.8b, v2.8b
  umlal2 v0.4s, v1.8h, v2.h[3]
  smlal2 v0.8h, v1.16b, v2.16b
  fmla v0.4s, v1.4s, v2.4s
  fmls v0.4s, v1.4s, v2.s[3]
  fmla v0.8h, v1.8h, v2.8h
  fmla v0.8h, v1.8h, v2.h[7]
  fmadd s0, s1, s2, s3
  fmul d0, d1, d2
  smaddl x0, w1, w2, x3
  ldr q0, [x0]
  stp x1, x2, [sp]
  add v0.4s, v1.4s, v2.4s
  mul v0.4s, v1.4s, v2.4s
  ret
"""


@pytest.mark.slow
def test_what_an_assembler_writes_is_classified(tmp_path: Path):
    pytest.importorskip("ziglang")
    (tmp_path / "f.s").write_text(CODE)
    target = ("-target", "aarch64-linux-none", "-mcpu=cortex_a76+fp16fml")
    subprocess.run([sys.executable, "-m", "ziglang", "cc", *target, "-c", "-o", tmp_path / "f.o", tmp_path / "f.s"], check=True)
    found = classify(code_of(tmp_path / "f.o"))
    assert +found == {"dot": 2, "widening": 3, "fma": 2, "half": 2, "scalar": 3, "memory": 2, "other": 3}


def test_a_file_without_code_is_no_file_with_none(tmp_path: Path):
    header = b"\x7fELF\x02\x01" + bytes(10) + struct.pack("<HHIQQQIHHHHHH", 3, 183, 1, 0, 0, 64, 0, 64, 0, 0, 64, 1, 0)
    (tmp_path / "stripped.so").write_bytes(header + bytes(64))
    with pytest.raises(UsageError, match=r"has no \.text section"):
        code_of(tmp_path / "stripped.so")


def test_only_code_for_aarch64(tmp_path: Path):
    with pytest.raises(UsageError, match="is no ELF file for aarch64"):
        code_of(Path(sys.executable).resolve())
