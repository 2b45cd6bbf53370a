"""A tiny example of every reader's layout, as real files, for the test that all readers share.

``EXAMPLES[name](base, changed)`` writes it below ``base`` and returns the reader's options; ``changed``: one image differs.
"""

from pathlib import Path

from data.images import write_image
from tests.data.helpers import texture

SIZE = (40, 48)


def pairs(files, changed=False):
    """Write PNGs, each its own picture; with ``changed``, another one in the first file."""
    for i, file in enumerate(files):
        write_image(file, texture(*SIZE, seed=i + 500 * (changed and i == 0)))


def folder(base, changed=False):
    pairs([base / "set" / part / f"{name}.png" for name in "ab" for part in ("input", "target")], changed)
    return {"path": "set", "blur": "input", "sharp": "target"}


def gopro(base, changed=False, nested=True):
    root = base / "set" / "GOPRO_Large" if nested else base / "set"
    for split, scenes in {"train": ["GOPR0372_07_00", "GOPR0374_11_01"], "test": ["GOPR0384_11_00"]}.items():
        pairs(
            [root / split / s / part / f"00000{i}.png" for s in scenes for part in ("blur", "blur_gamma", "sharp") for i in (1, 2)], changed
        )
    return {"path": "set", "split": "train"}


def hide(base, changed=False):
    root = base / "set"
    names = {
        "train": ["1fromGOPR0950", "2fromGOPR0950"],
        "test/test-close-ups": ["3fromGOPR1096"],
        "test/test-long-shot": ["4fromGOPR0863"],
    }
    pairs([root / place / f"{n}.png" for part, inside in names.items() for n in inside for place in (part, "GT")], changed)
    return {"path": "set", "split": "train"}


def realblur(base, changed=False):
    root, lines = base / "set", {"train": [], "test": []}
    for camera, place in {
        "J": "RealBlur-J_ECC_IMCORR_centroid_itensity_ref",
        "R": "RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref",
    }.items():
        for scene, split in {"scene001": "train", "scene002": "train", "scene003": "test"}.items():
            files = [f"{place}/{scene}/gt/gt_1.png", f"{place}/{scene}/blur/blur_1.png"]
            pairs([root / f for f in files], changed)
            lines[split].append(" ".join([*files, "1.25"]))
        for split, listed in lines.items():
            (root / f"RealBlur_{camera}_{split}_list.txt").write_text("\n".join(listed) + "\n")
            listed.clear()
    return {"path": "set", "split": "train"}


def reds(base, changed=False):
    for split in ("train", "val"):
        root = base / "set" / split
        pairs(
            [root / f"{split}_{part}" / s / f"0000000{i}.png" for s in ("000", "011") for part in ("blur", "sharp") for i in (0, 1)],
            changed,
        )
    return {"path": "set", "split": "train"}


def listed(base, changed=False):
    pairs([base / "my set" / part / f"{name}.png" for name in "ab" for part in ("blur", "sharp")], changed)
    text = "# two pairs\n\n'my set/blur/a.png' \"my set/sharp/a.png\" # the first\n'my set/blur/b.png' 'my set/sharp/b.png'\n"
    (base / "list.txt").write_text(text)
    return {"path": "list.txt"}


def frames(base, changed=False):
    pairs([base / "set" / s / f"{i:06d}.png" for s in ("street", "park") for i in range(7)], changed)
    return {"path": "set", "average": 3}


def sharp(base, changed=False):
    for i, name in enumerate(["a", "sub/b"]):
        write_image(base / "set" / f"{name}.png", texture(96, 104, seed=i + 500 * (changed and i == 0)))
    return {"path": "set", "size": 64}


def samples(base, changed=False):
    return {"split": "test", "count": 3, "size": 64}


def lmdb(base, changed=False):
    from data.pack import pack
    from data.readers.folder import READER

    pack(READER.open(READER.config(**folder(base / "plain", changed)), base / "plain", 0), Path(base / "packed"))
    return {"path": "packed"}


EXAMPLES = {
    "folder": folder,
    "frames": frames,
    "gopro": gopro,
    "hide": hide,
    "list": listed,
    "lmdb": lmdb,
    "realblur": realblur,
    "reds": reds,
    "samples": samples,
    "sharp": sharp,
}
