"""Apache TVM (Relax): int8, fp16 and fp32 for CPUs, compiled here for this machine or for the target's."""

from compile.tvm.backend import TvmBackend

BACKEND = TvmBackend()
