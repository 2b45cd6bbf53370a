"""Kernels of another CPU alone under user-mode emulation: TVM's object file, linked with a small program that plays its runtime."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_PROGRAM = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
typedef struct { int32_t type, padding; union { int64_t i; void *p; } v; } Any;
typedef struct { int32_t type, id; } Device;
typedef struct { uint8_t code, bits; uint16_t lanes; } DType;
typedef struct { void *data; Device device; int32_t ndim; DType dtype; int64_t *shape, *strides; uint64_t offset; } Tensor;
typedef struct { void *sync; int32_t tasks; } Group;
typedef int (*Work)(int, Group *, void *);
static int launch(Work work, void *data, int tasks) {
  Group group = {0, 3};
  (void)tasks;
  for (int i = 0; i < group.tasks; i++) if (work(i, &group, data)) return -1;
  return 0;
}
int (*__TVMBackendParallelLaunch)(Work, void *, int) = launch;
static void *take(int type, int id, uint64_t size, int code, int bits) {
  (void)type; (void)id; (void)code; (void)bits;
  return aligned_alloc(64, (size + 63) / 64 * 64);
}
static int give(int type, int id, void *p) { (void)type; (void)id; free(p); return 0; }
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = take;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = give;
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int count) {
  for (int i = 0; i < count; i++) fputs(parts[i], stderr);
  fprintf(stderr, " (%s)\n", kind);
}
int __tvm_ffi_main(void *, const Any *, int, Any *);
/* main COUNT (FILE CODE BITS NDIM DIM...)...: calls the kernel and writes the last tensor back to its file */
int main(int argc, char **argv) {
  int repeat = atoi(argv[1]), n = 0;
  const char *last = 0;
  Any given[16];
  Tensor tensors[16];
  for (int i = 2; i < argc; n++) {
    Tensor *t = &tensors[n];
    last = argv[i];
    DType dtype = {(uint8_t)atoi(argv[i + 1]), (uint8_t)atoi(argv[i + 2]), 1};
    int64_t size = dtype.bits / 8;
    *t = (Tensor){0, {1, 0}, atoi(argv[i + 3]), dtype, malloc(8 * 8), 0, 0};
    for (int d = 0; d < t->ndim; d++) size *= t->shape[d] = atoll(argv[i + 4 + d]);
    t->data = aligned_alloc(64, (size + 63) / 64 * 64);
    FILE *f = fopen(last, "rb");
    if (!f || fread(t->data, 1, size, f) != (size_t)size) return 3;
    fclose(f);
    given[n] = (Any){7, 0, {.p = t}};
    i += 4 + t->ndim;
  }
  Any result = {0};
  for (int i = 0; i < repeat; i++) if (__tvm_ffi_main(0, given, n, &result)) return 4;
  int64_t size = tensors[n - 1].dtype.bits / 8;
  for (int d = 0; d < tensors[n - 1].ndim; d++) size *= tensors[n - 1].shape[d];
  FILE *f = fopen(last, "wb");
  return !f || fwrite(tensors[n - 1].data, 1, size, f) != (size_t)size || fclose(f);
}
"""
_CODES = {"i": 0, "u": 1, "f": 2}


def target(mcpu: str, *features: str) -> Any:
    import tvm

    return tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": mcpu, "mattr": ["+neon", *features]})


def program(function: Any, built_for: Any, folder: Path) -> Path:
    """A static program for aarch64 that calls one TIR function."""
    import tvm

    if shutil.which("qemu-aarch64") is None:
        pytest.skip("needs qemu-user: apt-get install qemu-user")
    library = tvm.compile(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}), target=built_for)
    module = getattr(library, "mod", library)
    module.write_to_file(str(folder / "kernel.o"), "o")
    (folder / "main.c").write_text(_PROGRAM)
    gcc = shutil.which("aarch64-linux-gnu-gcc")
    compiler = [gcc] if gcc else [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]  # it builds a libc first
    subprocess.run([*compiler, "-static", "-O1", "-o", str(folder / "run"), str(folder / "main.c"), str(folder / "kernel.o")], check=True)
    return folder / "run"


def call(path: Path, mcpu: str, arrays: Sequence[np.ndarray], repeat: int = 1, plugin: Sequence[str] = ()) -> np.ndarray:
    """What the last array holds afterwards."""
    given = []
    for i, array in enumerate(arrays):
        file = path.with_name(f"{i}.bin")
        file.write_bytes(np.ascontiguousarray(array).tobytes())
        given += [str(file), str(_CODES[array.dtype.kind]), str(array.dtype.itemsize * 8), str(array.ndim), *map(str, array.shape)]
    done = subprocess.run(
        ["qemu-aarch64", "-cpu", mcpu, *plugin, str(path), str(repeat), *given], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return np.frombuffer(path.with_name(f"{len(arrays) - 1}.bin").read_bytes(), arrays[-1].dtype).reshape(arrays[-1].shape)
