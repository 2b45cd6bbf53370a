"""Which files to restore and where each result goes. Nothing is read or written here, and no result ever replaces an input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.images import IMAGE_SUFFIXES
from eval.video import VIDEO_SUFFIXES
from pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class Job:
    """One file to restore, and the file to write."""

    source: Path
    out: Path

    @property
    def is_video(self) -> bool:
        """Whether the source is a video."""
        return self.source.suffix.lower() in VIDEO_SUFFIXES


def find_jobs(inputs: Sequence[Path], out: Path, force: bool = False) -> list[Job]:
    """Pair every image and video with the file to write: ``out/<name>``, or the same path below ``out`` for files of a folder.

    Videos become ``.mp4``. Hidden files, and ``out`` itself when it lies in an input folder, are left out.

    Args:
        inputs: images, videos and folders.
        out: folder for the results.
        force: allow results that exist already to be replaced.

    Raises:
        UsageError: a missing input, a file of another kind, a folder without images, two inputs with one result, a result that
            exists already, or one that would replace an input.

    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}", "is a file", "name a folder; it is made when it does not exist")
    jobs = [job for path in inputs for job in _jobs(path, out)]
    _refuse_twins(jobs)
    _refuse_replacing_inputs(jobs)
    existing = [j.out for j in jobs if j.out.exists()]
    if existing and not force:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise UsageError(str(existing[0]), f"exists already{more}", "name another --out, or say --force to replace it")
    return jobs


def _jobs(path: Path, out: Path) -> Iterator[Job]:
    if not path.exists():
        raise UsageError(str(path), "no such file or folder", "check the path")
    if path.is_file():
        if not _is_ours(path):
            raise UsageError(
                str(path), f"'{path.suffix}' is neither an image nor a video", f"known: {' '.join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)}"
            )
        yield Job(path, _result(out / path.name))
        return
    found = [p for p in sorted(path.rglob("*")) if p.is_file() and _is_ours(p) and not _is_hidden(p, path) and not _inside(p, out, path)]
    if not found:
        raise UsageError(str(path), "holds no image and no video", f"known: {' '.join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)}")
    yield from (Job(p, _result(out / p.relative_to(path))) for p in found)


def _is_ours(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _inside(path: Path, out: Path, root: Path) -> bool:
    """Whether ``path`` is an earlier result; an ``out`` that is the input folder itself is refused later, as replacing inputs."""
    return out.resolve() != root.resolve() and out.resolve() in path.resolve().parents


def _result(path: Path) -> Path:
    return path.with_suffix(".mp4") if path.suffix.lower() in VIDEO_SUFFIXES else path


def _refuse_twins(jobs: Sequence[Job]) -> None:
    seen: dict[Path, Job] = {}
    for job in jobs:
        other = seen.setdefault(job.out, job)
        if other is not job:
            what = f"and {other.source} would both be written to {job.out}"
            raise UsageError(str(job.source), what, "restore them in two calls with different --out")


def _refuse_replacing_inputs(jobs: Sequence[Job]) -> None:
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        if job.out.resolve() in sources:
            raise UsageError(
                f"--out {job.out.parent}", f"the result would replace the input {job.out}", "name another folder; inputs are never replaced"
            )
