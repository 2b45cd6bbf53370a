import numpy as np
import pytest

from data.trajectory import draw_motion


def draw(seed, **changes):
    options = {"length": 10.0, "rotation": 2.0, "tremor": 1.0} | changes
    return draw_motion(np.random.default_rng(seed), 21, (30.0, 40.0), **options)


@pytest.mark.parametrize("seed", range(5))
def test_middle_sub_frame_is_unmoved(seed):
    assert np.array_equal(draw(seed).matrix(10), [[1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize("seed", range(5))
def test_path_and_rotation_are_as_long_as_asked(seed):
    motion = draw(seed)
    steps = np.linalg.norm(np.diff(motion.shift, axis=0), axis=1)
    assert steps.max() <= 10 / 20 + 1e-9  # chords of a path of constant speed
    assert 0.5 * 10 < steps.sum() <= 10 + 1e-9
    assert 1.5 < np.degrees(np.ptp(motion.angle)) <= 2 + 1e-9


def test_without_tremor_the_path_is_straight():
    ends = [draw(seed, tremor=0.0).shift for seed in range(20)]
    lengths = [np.linalg.norm(shift[-1] - shift[0]) for shift in ends]
    assert np.median(lengths) == pytest.approx(10, rel=0.01)  # a few turn round in a jerk


def test_rotation_leaves_its_centre_in_place():
    motion = draw(1, length=0.0)
    assert all(motion.matrix(i) @ [30, 40, 1] == pytest.approx([30, 40]) for i in range(21))
    assert motion.reach(np.array([[30.0, 40.0]])) == pytest.approx(0, abs=1e-9)
    assert motion.reach(np.array([[530.0, 40.0]])) > 5


def test_directions_are_spread_evenly():
    ends = np.array([draw(seed).shift[-1] for seed in range(300)])
    assert np.abs(ends.mean(axis=0)).max() < 0.6
    assert np.ptp(ends.std(axis=0)) < 0.5
