import hashlib

import pytest

from data.digests import file_digest, file_digests, joint_digest, value_digest
from pipeline.errors import UsageError


def test_files(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name)
    assert file_digest(paths[0]) == hashlib.sha256(b"a").hexdigest()
    assert file_digests(paths) == [file_digest(p) for p in paths]


def test_missing_file(tmp_path):
    with pytest.raises(UsageError) as caught:
        file_digest(tmp_path / "no")
    assert str(caught.value) == f"{tmp_path / 'no'}: cannot be read (No such file or directory)\nhint: check the path and its permissions"


def test_joint_digest_ignores_order_and_keeps_a_single_one():
    assert joint_digest(["b", "a"]) == joint_digest(["a", "b"]) != joint_digest(["a", "b", "b"])
    assert joint_digest(["x"]) == "x"


def test_value_digest_is_pinned():
    """A change of the canonical form would make every cached result unreachable."""
    assert value_digest({"b": [1, 2.5], "a": "x"}) == value_digest({"a": "x", "b": [1, 2.5]})
    assert value_digest({"a": "x"}) == hashlib.sha256(b'{"a":"x"}').hexdigest()
