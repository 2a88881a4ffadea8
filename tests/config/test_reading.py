"""YAML and JSON text: numbers, keys given twice, and errors that name the line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from incasem_like.config import load_training_config
from incasem_like.config.reading import parse_json, parse_yaml
from incasem_like.errors import ConfigError


@pytest.mark.parametrize("text", ["3e-5", "3E-5", "+3e-05", "3.0e-5", "0.00003", "30e-6"])
def test_exponents_are_numbers(text: str) -> None:
    value = parse_yaml(text, "here")
    assert isinstance(value, float)
    assert value == pytest.approx(3e-5)


@pytest.mark.parametrize("text", ["3e", "e5", "v3e-5", "2024-01-01", "cell_1e5"])
def test_what_only_looks_like_a_number_is_text(text: str) -> None:
    assert parse_yaml(text, "here") == text


def test_the_loader_of_others_stays_as_it_is() -> None:
    assert yaml.safe_load("3e-5") == "3e-5"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: [1, 2\n", r"here is not valid YAML in line 3, column 1: "),
        ("a: 1\n b: 2\n", r"in line 2, column 3: "),
        ("a:\n\tb: 1\n", r"in line 2, column 1: "),
        ("a: 1\nb: 2\na: 3\n", r"in line 3, column 1: the key 'a' is given twice"),
        ("s:\n  a: 1\n  a: 3\n", r"in line 3, column 3: the key 'a' is given twice"),
    ],
)
def test_bad_yaml_names_the_line(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_yaml(text, "here")


def test_anchors_and_merge_keys_work() -> None:
    values = parse_yaml("a: &sizes {x: 1, y: 2}\nb: {<<: *sizes, y: 3}\n", "here")
    assert values["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"a": 1,\n "b": }', r"here is not valid JSON in line 2, column 7"),
        ('{"a": 1,\n}', r"a comma before a closing bracket is not allowed"),
        ('{"a": [1,\n]}', r"a comma before a closing bracket is not allowed"),
        ("", r"not valid JSON in line 1, column 1"),
        ('{"a": 1,\n "b": 2,\n "a": 3}', r'the key "a" twice in one object \(line 1, 3\)'),
        ('{"s": {"a": 1,\n "a": 3}}', r'the key "a" twice'),
    ],
)
def test_bad_json_names_the_line(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_json(text, "here")


def test_a_file_that_is_no_configuration_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(ConfigError, match="holds no keys: write it as lines of 'key: value'"):
        load_training_config([tmp_path / "list.yaml"])
    (tmp_path / "image.yaml").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ConfigError, match="is not a text file"):
        load_training_config([tmp_path / "image.yaml"])
