"""``build_engine.sh``: the trtexec commands of a bundle, to be run on its board."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SCRIPT = """\
#!/bin/sh
# Builds TensorRT engines on this board with trtexec (written for TensorRT {version}).
# Usage: ./build_engine.sh [--force] [artifact ...]     Without trtexec: python3 build_engine.py
set -eu
cd "$(dirname "$0")"
TRTEXEC=${{TRTEXEC:-/usr/src/tensorrt/bin/trtexec}}
export TRTEXEC
[ -x "$TRTEXEC" ] || {{ echo "error: no trtexec at $TRTEXEC: set TRTEXEC to its path, or run python3 build_engine.py" >&2; exit 2; }}
sha256sum -c --quiet MANIFEST.sha256
force=no
if [ "${{1:-}}" = --force ]; then force=yes; shift; fi
[ $# -gt 0 ] || set -- {default}
for name in "$@"; do
  case $name in
    {names}) ;;
    *) echo "error: no artifact '$name'; there are: {listed}" >&2; exit 2 ;;
  esac
  if [ "$force" = no ] && python3 build_engine.py --check "$name" >/dev/null 2>&1; then
    echo "$name: the engine here fits this board; --force builds it again"
    continue
  fi
  cache=$(python3 build_engine.py --prepare "$name")
  case $name in
{cases}
  esac
  python3 build_engine.py --record "$name"
done
"""

DEVICE_FILES = tuple(Path(__file__).with_name(name) for name in ("build_engine.py", "trt_engine.py"))
"""What goes into the bundle beside the script."""


def build_script(artifacts: Mapping[str, Mapping[str, Any]], chosen: str) -> str:
    """POSIX shell script that builds engines; empty when there is none to build.

    Args:
        artifacts: name -> facts of the bundle's artifacts; those with "build_flags" are built on the board.
        chosen: built when nothing is named, if it is one of them.

    """
    found = {name: facts for name, facts in artifacts.items() if "build_flags" in facts}
    if not found:
        return ""
    cases = "\n".join(f"    {shlex.quote(name)}) {_command(facts['build_flags'])} ;;" for name, facts in found.items())
    names = list(found)
    default = chosen if chosen in found else names[0]
    version = found[default]["tensorrt"]
    return SCRIPT.format(version=version, default=default, names=" | ".join(names), listed=", ".join(names), cases=cases)


def _command(flags: Sequence[str]) -> str:
    return f'"$TRTEXEC" {shlex.join(flags)} "--timingCacheFile=$cache"'
