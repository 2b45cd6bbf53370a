from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.errors import ToolchainMissing
from targets.emulate.emulator import Emulator, _run
from targets.emulate.userlands import USERLANDS, userland
from tests.boards.emulated import emulator


@pytest.mark.parametrize("system", sorted(USERLANDS))
def test_python_and_what_it_starts_are_aarch64(system: str, tmp_path: Path):
    code = "import platform, subprocess, sys; print(platform.machine(), *platform.libc_ver(), *sys.version_info[:2]); "
    inner = "sys.stdout.flush(); subprocess.run(['uname', '-m'], check=True)"
    done = emulator(system=system).run(["python3", "-c", code + inner], tmp_path)
    expected = userland(system)
    assert done.stdout == f"aarch64 glibc {expected.glibc} {expected.python.replace('.', ' ')}\naarch64\n", done.stderr


def test_the_folder_is_shared_and_the_environment_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OF_THIS_MACHINE", "1")
    (tmp_path / "in").write_text("from here")
    script = "cat in > out; echo $OF_THIS_MACHINE-$GIVEN; head -2 /proc/cpuinfo; exit 3"
    done = emulator("cortex-a72").run(["sh", "-c", script], tmp_path, {"GIVEN": "2"})
    assert done.returncode == 3
    assert done.stdout.startswith("-2\nprocessor\t: 0\n")
    assert (tmp_path / "out").read_text() == "from here"


def test_what_takes_too_long_is_ended_whole(tmp_path: Path):
    script = "echo $$ > started; sleep 600"
    with pytest.raises(subprocess.TimeoutExpired):
        emulator().run(["sh", "-c", script], tmp_path, seconds=5)
    pid = int((tmp_path / "started").read_text())
    assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()  # gone, or a zombie


def open_files() -> list[str]:
    return sorted(p.name for p in Path("/proc/self/fd").iterdir())


def test_what_is_ended_leaves_no_pipe_open():
    before = open_files()
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        _run([str(shutil.which("sleep")), "60"], {}, 0.1)
    assert open_files() == before
    assert caught.value.timeout == 0.1


SDOT = """
#include <arm_neon.h>
#include <stdio.h>
int main(void) {
  int8x16_t a = vdupq_n_s8(-3), b = vdupq_n_s8(5);
  printf("%d\\n", vgetq_lane_s32(vdotq_s32(vdupq_n_s32(100), a, b), 1));
  return 0;
}
"""


@pytest.fixture(scope="module")
def dot_product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program for glibc 2.31 that needs the dot product, in its own folder."""
    pytest.importorskip("ziglang")
    import sys

    folder = tmp_path_factory.mktemp("sdot")
    (folder / "sdot.c").write_text(SDOT)
    target = ("-target", "aarch64-linux-gnu.2.31", "-mcpu=cortex_a76", "-O1")
    subprocess.run([sys.executable, "-m", "ziglang", "cc", *target, "-o", folder / "sdot", folder / "sdot.c"], check=True)
    return folder


@pytest.mark.slow
def test_an_instruction_that_the_cpu_lacks_kills_the_program(dot_product: Path):
    assert emulator("cortex-a76", "bullseye").run(["./sdot"], dot_product).stdout == "40\n"
    assert emulator("cortex-a72", "bullseye").run(["./sdot"], dot_product).returncode != 0


def test_what_is_missing_is_said_with_the_line_that_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DEBLUR_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    line = "apt-get install qemu-user proot && python -m targets.emulate bookworm"
    assert Emulator().missing() == line
    with pytest.raises(ToolchainMissing, match=rf"emulate: cannot emulate cortex-a76 with bookworm\nhint: {line}") as caught:
        Emulator().run(["true"], tmp_path)
    assert caught.value.exit_code == 6
