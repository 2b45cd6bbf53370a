"""Where the pairs of a data set lie: two folders whose images have equal names, the root of an unpacked archive, lists of paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from data.filepairs import Entry, Finding, Found
from data.images import list_images
from pipeline.errors import UsageError

_NAMED = 3  # how many wrong files an error names
_WORD = re.compile(r"""(?P<comment>\#.*)|"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<plain>\S+)""")


def pair_folders(
    blur: Path,
    sharp: Path,
    where: Path,
    prefix: str = "",
    scene: Callable[[str], str] = lambda key: "",
    *,
    spare: bool = False,
    hint: str = "",
) -> Found:
    """Pair the images of two folders, and of their subfolders, by name; the suffix does not count.

    Args:
        blur: folder of blurred images.
        sharp: folder of sharp ones.
        where: the folder that errors name.
        prefix: put before the keys.
        scene: key -> scene.
        spare: sharp images without a blurred partner are all right.
        hint: what the layout should look like, said of a folder that is missing or empty.
    """
    blurred, wrong_blur = _by_key(blur, hint)
    sharps, wrong_sharp = _by_key(sharp, hint)
    findings = [Finding(e) for e in (*wrong_blur, *wrong_sharp)]
    lonely = {key: image for key, image in blurred.items() if key not in sharps}
    lonely |= {key: image for key, image in sharps.items() if key not in blurred and not spare}
    if lonely and blurred and sharps:
        rule = f"every image in {blur.name}/ needs one of the same name in {sharp.name}/" + ", and the other way round" * (not spare)
        findings.append(_alone([p for _, p in sorted(lonely.items())], where, rule))
    keys = [key for key in sorted(blurred) if key in sharps]
    return Found([Entry(prefix + k, blurred[k], sharps[k], scene(prefix + k)) for k in keys], findings)


def join(found: Sequence[Found]) -> Found:
    """Several parts of a data set as one."""
    return Found([e for f in found for e in f.entries], [x for f in found for x in f.findings])


def dataset_root(path: Path, nested: Sequence[str], wanted: Sequence[str], hint: str) -> Path:
    """``path``, or the folder in it that ``nested`` names, whichever holds one of the folders or files ``wanted``.

    Raises:
        UsageError: there is no such folder, or it holds none of them.
    """
    if not path.is_dir():
        raise UsageError(str(path), "folder does not exist", "check the path; relative paths start at the pipeline file's folder")
    for root in (path, *(path / name for name in nested)):
        if any((root / name).exists() for name in wanted):
            return root
    raise UsageError(str(path), f"holds no {' or '.join(wanted)}", hint)


def read_list(path: Path, hint: str) -> list[tuple[str, list[str]]]:
    """The lines of a list of paths as (place, paths); ``place`` is what errors name: ``list.txt:3``.

    Paths are separated by white space; one that contains some, or begins with #, stands in quotes. From # on is a comment; empty lines
    are left out, and a backslash counts as /.

    Raises:
        UsageError: the file is missing, is no text, or lists nothing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as e:
        raise UsageError(str(path), "file does not exist", hint) from e
    except OSError as e:
        raise UsageError(str(path), f"cannot be opened ({e.strerror})", "check the path and its permissions") from e
    except UnicodeDecodeError as e:
        raise UsageError(str(path), "is not a text in UTF-8", hint) from e
    lines = [(f"{path}:{number}", _words(line)) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(place, words) for place, words in lines if words]
    if not lines:
        raise UsageError(str(path), "lists no pair", hint)
    return lines


def _words(line: str) -> list[str]:
    words: list[str] = []
    for match in _WORD.finditer(line):
        if match["comment"]:
            break
        words.append((match["double"] or match["single"] or match["plain"] or "").replace("\\", "/"))
    return [word for word in words if word]


def _by_key(folder: Path, hint: str) -> tuple[dict[str, Path], list[UsageError]]:
    found: dict[str, Path] = {}
    errors = []
    try:
        images = list_images(folder, recursive=True)
    except UsageError as e:
        return {}, [UsageError(e.where, e.what, hint or e.hint)]
    for image in images:
        first = found.setdefault(image.relative_to(folder).with_suffix("").as_posix(), image)
        if first is not image:
            what = f"has the same name as {first.name}"
            errors.append(UsageError(str(image), what, "keep one image of each name; the suffix does not count"))
    return found, errors


def _alone(lonely: Sequence[Path], where: Path, rule: str) -> Finding:
    shown = ", ".join(str(p.relative_to(where)) for p in lonely[:_NAMED])
    more = f" and {len(lonely) - _NAMED} more" if len(lonely) > _NAMED else ""
    what = f"{len(lonely)} image{'s' * (len(lonely) > 1)} without a partner: {shown}{more}"
    return Finding(UsageError(str(where), what, rule), lonely, "has no partner of the same name")
