import cv2
import numpy as np
import pytest

from data.check import Facts, Role, check_role, compare, displacement, inspect
from data.images import write_image
from data.readers.folder import READER as FOLDER
from data.readers.samples import READER as SAMPLES
from data.readers.samples import SamplesConfig, SamplesSource
from data.synthesis import BlurSettings
from pipeline.contract import Pair, Problem, ReaderSpec
from pipeline.errors import UsageError
from tests.data.helpers import texture


def photo(seed=0, size=(96, 128)):
    """A picture with sharp edges."""
    rough = np.random.default_rng(seed).integers(0, 256, (size[0] // 8, size[1] // 8, 3)).astype(np.uint8)
    return cv2.resize(rough, size[::-1], interpolation=cv2.INTER_NEAREST)


def blurred(image, width=9):
    return cv2.blur(image, (width, 1))


class Given:
    """Pairs as they are given: (sharp, blurred, name, scene); an exception is raised where it stands for a pair."""

    def __init__(self, *pairs, scenes=None):
        self.pairs, self.named = pairs, scenes

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError
        if isinstance(self.pairs[index], Exception):
            raise self.pairs[index]
        gt, lq, name, scene = self.pairs[index]
        return Pair(lq, gt, name, scene)

    def digest(self):
        return "0" * 64

    def scenes(self):
        return self.named or {p[3]: f"content of {p[3]}" for p in self.pairs if not isinstance(p, Exception)}


def good(seed, name=None, scene=None):
    sharp = photo(seed)
    return sharp, blurred(sharp), name or f"p{seed}", scene or f"s{seed}"


def check(*pairs, role="train", problems=(), **options):
    return check_role(role, Given(*pairs), problems, advance=lambda: None, **options)


def told(findings):
    return [(f.kind, f.where, f.what, f.error) for f in findings]


def test_a_good_set_is_summed_up():
    ticks = []
    source = Given(good(1), good(2), good(3, scene="s1"))
    role, findings = check_role("train", source, [], crop=64, advance=lambda: ticks.append(1))
    assert findings == []
    assert (role.name, role.pairs, len(role.scenes), role.sizes, role.uneven, len(ticks)) == ("train", 3, 2, [(96, 128)], 0, 3)
    expected = [10 * np.log10(255**2 / np.mean((p.lq.astype(float) - p.gt) ** 2)) for p in source]
    assert role.psnr == pytest.approx(np.mean(expected), abs=1e-4)
    assert [f.name for f in role.facts] == ["p1", "p2", "p3"]


def test_the_embedded_samples_are_good():
    roles = []
    for split in ("train", "calibrate", "test"):
        role, findings = check_role(split, SamplesSource(SamplesConfig(split=split, count=12), 2026), [], crop=64, advance=lambda: None)
        assert findings == []
        roles.append(role)
    assert compare(roles) == []


def test_sizes_in_order_of_area_and_odd_sides():
    role, _ = check(*((photo(i, s), blurred(photo(i, s)), f"p{i}", f"s{i}") for i, s in enumerate([(128, 96), (48, 64), (96, 104)])))
    assert role.sizes == [(48, 64), (96, 104), (128, 96)]
    assert role.uneven == 0
    odd = photo(5)[:93, :127]
    assert check((odd, blurred(odd), "odd", "s"))[0].uneven == 1


def test_problems_of_the_reader_come_first():
    role, findings = check(good(1), UsageError("p2", "not a readable image", "remove it"), problems=[Problem("here", "is wrong")])
    assert told(findings) == [("files", "here", "is wrong", True), ("unreadable", "p2", "not a readable image", True)]
    assert (role.pairs, len(role.facts)) == (2, 1)


def test_nothing_to_read():
    role, findings = check_role("train", None, [Problem("here", "is empty")], advance=lambda: None)
    assert (role, told(findings)) == (Role("train"), [("files", "here", "is empty", True)])


def test_quick_decodes_nothing():
    ticks = []
    role, findings = check_role("train", Given(UsageError("a", "b", "c")), [], quick=True, advance=lambda: ticks.append(1))
    assert (role.pairs, role.facts, findings, ticks) == (1, [], [], [])


def test_smaller_than_the_training_crop():
    _, findings = check(good(1), crop=100)
    assert told(findings) == [("size", "p1", "is 128x96 pixels, smaller than the training crop of 100", True)]


def test_no_blur():
    _, findings = check((photo(), photo(), "a", "s"), good(2))
    assert told(findings) == [("no blur", "a", "the blurred image equals the sharp one: there is nothing to learn or to measure", True)]


def test_no_blur_is_left_out_of_the_mean():
    both, _ = check((photo(), photo(), "a", "s"), good(2))
    assert both.psnr == check(good(2))[0].psnr
    assert check((photo(), photo(), "a", "s"))[0].psnr is None


def test_exchanged_images():
    _, findings = check((blurred(photo()), photo(), "a", "s"))
    (finding,) = findings
    assert (finding.kind, finding.error) == ("exchanged?", False)
    assert finding.what.endswith(" times the edges of the sharp one")


def test_noise_alone_is_not_taken_for_sharpness():
    smooth = texture(96, 128)
    noisy = np.clip(blurred(smooth, 5) + np.random.default_rng(0).normal(0, 1, smooth.shape), 0, 255).astype(np.uint8)
    assert check((smooth, noisy, "a", "s"))[1] == []


def test_displaced_images():
    wide = SamplesSource(SamplesConfig(split="test", count=4, size=128), 1)
    moved = [(p.gt[:-4, :-3].copy(), p.lq[4:, 3:].copy(), p.name, p.scene) for p in wide]
    _, findings = check(*moved)
    assert [f.kind for f in findings] == ["displaced?"] * 4
    assert all(not f.error and "pixels" in f.what for f in findings)
    found = [displacement(*(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY).astype(np.float32) for i in (lq, gt))) for gt, lq, *_ in moved]
    assert np.mean(found, axis=0)[:2] == pytest.approx((-3, -4), abs=0.7)
    assert min(gain for _, _, gain in found) > 5


def test_a_strong_blur_is_rarely_taken_for_displacement():
    strong = SamplesSource(SamplesConfig(split="train", count=24, blur=BlurSettings(length=(15, 30))), 3)
    _, findings = check_role("train", strong, [], advance=lambda: None)
    assert len(findings) <= 1


def test_tiny_and_plain_images_are_no_trouble():
    tiny = photo(0, (16, 24))
    plain = np.full((64, 64, 3), 90, np.uint8)
    role, findings = check((tiny, blurred(tiny, 3), "tiny", "a"), (plain, plain + 1, "one", "b"), (plain + 3, plain + 2, "two", "c"))
    assert [f for f in findings if f.where != "tiny"] == []
    assert [f.hash for f in role.facts[1:]] == [None, None]
    assert compare([role]) == []


def test_two_pairs_of_one_name():
    _, findings = check(good(1), good(2, name="p1"))
    assert told(findings) == [("name", "p1", "two pairs have this name", True)]


def test_arrays_that_are_no_images():
    _, findings = check((photo(), photo()[:50], "a", "s"), (photo(), photo().astype(float), "b", "s"))
    assert [(f.kind, f.where, f.error) for f in findings] == [("size", "a", True), ("size", "b", True)]
    assert findings[0].what == "is uint8 [50, 128, 3] and uint8 [96, 128, 3], not two uint8 [H, W, 3] of equal size"


def test_a_pair_that_comes_twice():
    role, _ = check(good(1), (*good(1)[:2], "again", "s1"))
    assert told(compare([role])) == [("duplicate", "again", "is the same pair as 'p1'", False)]


def test_several_blurs_of_one_image_are_no_duplicates_but_two_scenes_are():
    sharp = photo(1)
    pairs = [(sharp, blurred(sharp, width), f"w{width}", "s") for width in (5, 7, 9)]
    role, _ = check(*pairs)
    assert compare([role]) == []
    role, _ = check(*pairs[:2], (*pairs[2][:3], "other"))
    assert told(compare([role])) == [("duplicate", "w9", "has the same sharp image as 'w5', which is another scene", False)]


def test_sharp_images_in_two_sets():
    """An error where one of them is the test set, which is not to be seen before."""
    sharp = photo(1)
    roles = [
        check((sharp, blurred(sharp, 5 + i), f"p{i}", f"s{i}"), good(10 + i), role=role)[0]
        for i, role in enumerate(("train", "calibrate", "test"))
    ]
    assert [(f.role, *t) for f, t in zip(compare(roles), told(compare(roles)), strict=True)] == [
        ("calibrate", "duplicate", "p1", "has the same sharp image as 'p0' in train", False),
        ("test", "duplicate", "p2", "has the same sharp image as 'p0' in train", True),
    ]


def test_scenes_of_the_test_set_in_another():
    train, _ = check(good(1, scene="park"), good(2, scene="street"), role="train")
    test, _ = check(good(3, scene="park"), good(2, scene="alley"), role="test")
    assert told(compare([test, train])) == [
        ("overlap", "park", "this scene is also in train, so its score would prove nothing", True),
        ("duplicate", "p2", "has the same sharp image as 'p2' in test", True),
    ]
    by_content = Role("train", scenes={"x": "one"}), Role("test", scenes={"y": "one", "z": "two"})
    assert [f.where for f in compare(by_content)] == ["y"]


def test_scenes_that_look_alike():
    first = texture(96, 128, 1)
    second = np.clip(first.astype(int) + np.random.default_rng(1).integers(-3, 4, first.shape), 0, 255).astype(np.uint8)
    other = texture(96, 128, 2)
    train, _ = check((first, blurred(first), "a", "park"), (other, blurred(other), "b", "street"))
    test, _ = check((second, blurred(second), "c", "alley"), role="test")
    what = "looks like 'a' in train, which is another scene; are they the same one?"
    assert told(compare([train, test])) == [("similar?", "c", what, False)]
    same_scene, _ = check((first, blurred(first), "a", "park"), (second, blurred(second), "c", "park"))
    assert compare([same_scene]) == []


@pytest.mark.parametrize("bits", [(), (0,), (63,), (0, 63), (20, 21), (41, 42)])
def test_hashes_up_to_two_bits_apart_are_found(bits):
    value = 0x0123456789ABCDEF
    other = value
    for bit in bits:
        other ^= 1 << bit
    facts = [Facts(n, n, (8, 8), 30.0, n, n, h) for n, h in (("a", value), ("b", other), ("c", value ^ 0b10101 << 20))]
    assert [f.where for f in compare([Role("train", facts=facts)])] == ["b"]


def test_digest_that_cannot_be_read_is_a_finding():
    class Broken(Given):
        def scenes(self):
            raise UsageError("file", "cannot be read", "mend it")

    role, findings = check_role("train", Broken(good(1)), [], advance=lambda: None)
    assert told(findings) == [("files", "file", "cannot be read", True)]
    assert role.scenes == {}


def test_inspect_asks_the_reader_for_everything(tmp_path):
    for i, names in enumerate([("a", "b"), ("a", "c")]):
        for name in names:
            write_image(tmp_path / ("blur", "sharp")[i] / f"{name}.png", photo(i))
    source, problems = inspect(FOLDER, FOLDER.config(path="."), tmp_path, 1)
    assert len(problems) >= 1
    assert source is None or len(source) == 1


def test_inspect_of_a_reader_that_only_opens(tmp_path):
    def refuse(config, base, seed):
        raise UsageError("here", "is wrong", "mend it")

    assert inspect(ReaderSpec(SamplesConfig, refuse), None, tmp_path, 1) == (None, [Problem("here", "is wrong")])
    source, problems = inspect(ReaderSpec(SamplesConfig, SAMPLES.open), SamplesConfig(split="test"), tmp_path, 1)
    assert (len(source), problems) == (24, [])
