"""README.md of a bundle: what the person at the board does, in the order of doing it."""

from __future__ import annotations

from collections.abc import Iterator

from eval.bundle import BundleArtifact, BundleFacts
from eval.session import load_backend


def readme(facts: BundleFacts) -> str:
    """Return the text."""
    return "\n".join(_lines(facts)) + "\n"


def _lines(facts: BundleFacts) -> Iterator[str]:
    chosen = next(a for a in facts.artifacts if a.name == facts.chosen)
    yield f"# Image deblurring for {facts.title}"
    yield ""
    yield f"{facts.frame.width}x{facts.frame.height} within {facts.latency_budget_ms:g} ms. Chosen: `{facts.chosen}`, {_needs(chosen)}."
    yield ""
    yield from (f"{k}. {step}" for k, step in enumerate(_steps(facts, chosen), 1))
    yield ""
    others = ", ".join(f"`{a.name}` ({a.role})" for a in facts.artifacts if a.name != facts.chosen)
    yield f"Also in here, by `--artifact NAME`: {others or 'nothing'}. `bundle.json` says where all of it comes from."
    yield "Python 3.6 or later with numpy; PNG and PPM need nothing more, JPEG and videos OpenCV or ffmpeg."
    if chosen.runner:
        yield f"Without Python: `{chosen.runner} --verify`, then `--bench`, which writes the same `result.json`; it lists its commands."


def _steps(facts: BundleFacts, chosen: BundleArtifact) -> Iterator[str]:
    yield "Copy this folder to the board and check it: `sha256sum -c --quiet MANIFEST.sha256`"
    if "build_flags" in chosen.facts:
        yield "Build the engine there, once, which takes minutes: `sh build_engine.sh`"
    yield "Prove that it computes the same as where it was made: `python3 run.py --verify`"
    yield "Restore an image, a folder or a video: `python3 run.py INPUT OUTPUT`"
    yield "Measure it, cooled and with nothing else running: `python3 bench.py`; take `result.json` back"


def _needs(artifact: BundleArtifact) -> str:
    if artifact.runner:
        return "which needs nothing else: its own runner is in here"
    return f"which needs {load_backend(artifact.facts['backend']).needs or artifact.backend}"
