"""The two texts of a bundle that a person reads: how to build engines, and what to do on the device."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from eval.bundle import BundleArtifact, BundleFacts

SCRIPT = """\
#!/bin/sh
# Builds TensorRT engines on this device (TensorRT {version}). Usage: ./build_engine.sh [artifact ...]
set -eu
cd "$(dirname "$0")"
trtexec=${{TRTEXEC:-/usr/src/tensorrt/bin/trtexec}}
[ -x "$trtexec" ] || {{ echo "error: no trtexec at $trtexec: set TRTEXEC to its path" >&2; exit 2; }}
sha256sum -c --quiet MANIFEST.sha256
[ $# -gt 0 ] || set -- {default}
for name in "$@"; do
  case $name in
{cases}
    *) echo "error: no artifact '$name'; there are: {names}" >&2; exit 2 ;;
  esac
done
"""


def engines(facts: BundleFacts) -> list[BundleArtifact]:
    """The artifacts that the device builds an engine from."""
    return [a for a in facts.artifacts if "build_flags" in a.facts]


def build_engine_script(facts: BundleFacts) -> str:
    """POSIX shell script that builds the engines, by default the chosen one; empty when there is none to build."""
    found = engines(facts)
    if not found:
        return ""
    names = [a.name for a in found]
    cases = "\n".join(f'    {a.name}) "$trtexec" {shlex.join(a.facts["build_flags"])} ;;' for a in found)
    default = facts.chosen if facts.chosen in names else names[0]
    return SCRIPT.format(version=found[0].facts["tensorrt"], default=default, cases=cases, names=", ".join(names))


def readme(facts: BundleFacts) -> str:
    """Return README.txt: what to do on the device."""
    return "\n".join(_lines(facts)) + "\n"


def _lines(facts: BundleFacts) -> Iterator[str]:
    others = ", ".join(a.name for a in facts.artifacts if a.name != facts.chosen) or "none"
    yield f"Image deblurring for {facts.title}: {facts.frame.width}x{facts.frame.height} within {facts.latency_budget_ms:g} ms."
    yield f"Artifact chosen for the device: {facts.chosen}. Others in here: {others}."
    yield ""
    yield "1. Copy this folder to the device and check it:        sha256sum -c --quiet MANIFEST.sha256"
    if engines(facts):
        yield "2. Build the engine there (minutes, once):              sh build_engine.sh"
    else:
        yield "2. Nothing is built on this device."
    yield "3. Prove that it computes the same as where it was made: python3 bench.py --verify"
    yield "4. Measure it (full power, cooled, nothing else running): python3 bench.py --threads 4"
    yield "5. Take result.json back. It holds the times and what the device says of itself."
    yield "Needs Python 3.8 or later, numpy, and the artifact's runtime. 'python3 bench.py --help' lists the options."
