import pytest

from data.layouts import read_list
from pipeline.errors import UsageError


def words(tmp_path, text):
    (tmp_path / "l.txt").write_text(text)
    return [w for _, w in read_list(tmp_path / "l.txt", "a hint")]


def error(path):
    with pytest.raises(UsageError) as caught:
        read_list(path, "a hint")
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a.png b.png", ["a.png", "b.png"]),
        ("\ta.png   b.png \r", ["a.png", "b.png"]),
        ("a.png b.png # said so", ["a.png", "b.png"]),
        ("a.png b.png # don't", ["a.png", "b.png"]),
        ("'my a.png' \"my b.png\"", ["my a.png", "my b.png"]),
        ('"it\'s a.png" b.png', ["it's a.png", "b.png"]),
        ("a#1.png '#2.png'", ["a#1.png", "#2.png"]),
        (r"sub\a.png b.png", ["sub/a.png", "b.png"]),
        ("a.png", ["a.png"]),
        ("a b c", ["a", "b", "c"]),
        ("'' a.png", ["a.png"]),
    ],
)
def test_words(tmp_path, line, expected):
    assert words(tmp_path, line) == [expected]


def test_places_count_all_lines(tmp_path):
    (tmp_path / "l.txt").write_text("# first\n\na b\n")
    assert read_list(tmp_path / "l.txt", "") == [(f"{tmp_path / 'l.txt'}:3", ["a", "b"])]


def test_byte_order_mark(tmp_path):
    (tmp_path / "l.txt").write_text("a b\n", encoding="utf-8-sig")
    assert read_list(tmp_path / "l.txt", "")[0][1] == ["a", "b"]


def test_errors(tmp_path):
    path = tmp_path / "l.txt"
    assert error(path) == f"{path}: file does not exist\nhint: a hint"
    assert error(tmp_path) == f"{tmp_path}: cannot be opened (Is a directory)\nhint: check the path and its permissions"
    path.write_text("# nothing\n\n")
    assert error(path) == f"{path}: lists no pair\nhint: a hint"
    path.write_bytes(b"\xff\xfe\x00a")
    assert error(path) == f"{path}: is not a text in UTF-8\nhint: a hint"
