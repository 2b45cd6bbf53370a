"""One kernel as a program for aarch64 that needs nothing: TVM's object file, linked with a few lines of C that play its runtime."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import StageFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

SOURCE = Path(__file__).with_name("alone.c")
_CODES = {"i": 0, "u": 1, "f": 2}


def program(function: Any, target: Any, folder: Path) -> Path:
    """Build a TIR function of buffers as a static program.

    Args:
        function: writes its last buffer.
        target: ``tvm.target.Target`` for aarch64.
        folder: of the program; what is in its way is replaced.

    Raises:
        StageFailed: the compiler refuses.

    """
    import tvm

    library = tvm.compile(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}), target=target)
    getattr(library, "mod", library).write_to_file(str(folder / "kernel.o"), "o")
    gcc = shutil.which("aarch64-linux-gnu-gcc")
    compiler = [gcc] if gcc else [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]  # it builds a libc first
    command = [*compiler, "-static", "-O1", "-o", str(folder / "run"), str(SOURCE), str(folder / "kernel.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageFailed("compile.tvm", f"a kernel was not linked: {done.stderr.strip()[-400:]}", 'pip install -e ".[tvm]"')
    return folder / "run"


def command(path: Path, arrays: Sequence[NDArray[Any]], repeat: int = 1) -> list[str]:
    """The command that calls a program ``repeat`` times and leaves its last buffer in ``result_of``; writes the arrays beside it."""
    import numpy as np

    given = []
    for i, array in enumerate(arrays):
        file = path.with_name(f"{i}.bin")
        file.write_bytes(np.ascontiguousarray(array).tobytes())
        given += [str(file), str(_CODES[array.dtype.kind]), str(array.dtype.itemsize * 8), str(array.ndim), *map(str, array.shape)]
    return [str(path), str(repeat), *given]


def result_of(path: Path, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """What the last array holds after a program has run."""
    import numpy as np

    last = arrays[-1]
    return np.frombuffer(path.with_name(f"{len(arrays) - 1}.bin").read_bytes(), last.dtype).reshape(last.shape)
