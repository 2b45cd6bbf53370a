from __future__ import annotations

import math
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from pipeline.errors import UsageError
from pipeline.yamlfile import load_yaml, parse_yaml, validate


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rate: float = 0.1
    count: int = 1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    inner: Inner = Inner()
    table: dict[str, Inner] = {}
    maybe: Inner | None = None


def test_scalars_mean_what_their_author_meant():
    text = "{a: 1e-4, b: 10:20, c: on, d: 0.5, e: 017, f: true, g: ~, h: .inf, i: 1_000, j: yes, k: -3}"
    value = parse_yaml(text, "x")
    assert value == {
        "a": 1e-4, "b": "10:20", "c": "on", "d": 0.5, "e": 17, "f": True, "g": None, "h": math.inf, "i": "1_000", "j": "yes", "k": -3,
    }  # fmt: skip


def test_an_empty_value_is_null():
    assert parse_yaml("a:\nb: 1", "x") == {"a": None, "b": 1}


def test_a_repeated_key_is_refused_with_its_place():
    with pytest.raises(UsageError) as e:
        parse_yaml("a: 1\nb:\n  c: 1\n  c: 2\n", "p.yaml")
    assert str(e.value).startswith("p.yaml:4:3: malformed YAML, key 'c' occurs twice\nhint: ")


def test_malformed_yaml_says_line_and_column():
    with pytest.raises(UsageError, match=r"^p\.yaml:2:\d+: malformed YAML"):
        parse_yaml("a: [1\nb: }", "p.yaml")


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(UsageError) as e:
        load_yaml(tmp_path / "no.yaml")
    assert str(e.value) == f"{tmp_path / 'no.yaml'}: no such file\nhint: give the path of an existing YAML file"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "x", "iner": {}}, "f.yaml: iner: unknown key\nhint: did you mean 'inner'?"),
        ({"name": "x", "inner": {"rat": 1}}, "f.yaml: inner.rat: unknown key\nhint: did you mean 'rate'?"),
        ({"name": "x", "table": {"k": {"cuont": 1}}}, "f.yaml: table.k.cuont: unknown key\nhint: did you mean 'count'?"),
        ({"name": "x", "maybe": {"zzz": 1}}, "f.yaml: maybe.zzz: unknown key\nhint: known: count, rate"),
        ({}, "f.yaml: name: is missing\nhint: add 'name:' there"),
        ([1], "f.yaml: is a list, not a mapping\nhint: write 'key: value' lines there"),
        (None, "f.yaml: is empty, not a mapping\nhint: write 'key: value' lines there"),
    ],
)
def test_what_is_wrong_is_named_with_its_dotted_path(value: object, message: str):
    with pytest.raises(UsageError) as e:
        validate(Outer, value, "f.yaml")
    assert str(e.value) == message


def test_a_wrong_type_shows_the_value():
    with pytest.raises(UsageError, match=r"f\.yaml: p\.inner\.count: input should be a valid integer.*\(got 'many'\)"):
        validate(Outer, {"name": "x", "inner": {"count": "many"}}, "f.yaml", prefix="p")
