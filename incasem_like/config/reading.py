"""Reading YAML and JSON: numbers such as 3e-5 are numbers, duplicate keys are errors, errors name the line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from incasem_like.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML loader in which ``3e-5`` is a number, dates are text, and duplicate keys are errors."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


# a separate table, so that yaml.SafeLoader is unchanged elsewhere in the process
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str, where: str) -> Any:
    """Read YAML text.

    Args:
        text: The YAML.
        where: Source of the text, for the error: a file name or a command-line argument.

    Raises:
        ConfigError: It is not YAML; the message names the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{where} is not valid YAML{line}: {problem}.") from None


def read_text(path: Path, what: str) -> str:
    """Read a text file.

    Raises:
        ConfigError: It does not exist, is a folder, unreadable, or not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")  # Windows editors put a byte-order mark before the first key
    except FileNotFoundError:
        raise ConfigError(f"{what} {path} does not exist: check the name.") from None
    except IsADirectoryError:
        raise ConfigError(f"{what} {path} is a folder: name a file in it.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{what} {path} is not a text file (not UTF-8): check the name.") from None
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read ({error.strerror}): check its permissions.") from None


def read_keys(path: Path) -> dict[str, Any]:
    """Read a YAML file, or a JSON file (``.json``), of nested keys; an empty file has none.

    Raises:
        ConfigError: It cannot be read, is not YAML or JSON, or not a mapping of keys.
    """
    parse = parse_json if path.suffix == ".json" else parse_yaml
    values = parse(read_text(path, "The configuration"), str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no keys: write it as lines of 'key: value'.")
    return values


def parse_json(text: str, where: str) -> Any:
    """Read JSON text.

    Raises:
        ConfigError: It is not JSON (the message names the line), or an object has a duplicate key.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                pattern = re.compile(re.escape(json.dumps(key, ensure_ascii=False)) + r"\s*:")
                lines = [str(number) for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)]
                place = f" (line {', '.join(lines)})" if lines else ""
                raise ConfigError(f'{where} has the key "{key}" twice in one object{place}: rename or remove one.')
            seen[key] = value
        return seen

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        # the position is that of the comma or of the bracket, depending on the version of Python
        before, behind = text[: error.pos], text[error.pos :]
        comma = re.match(r",\s*[}\]]", behind) or (re.search(r",\s*$", before) and re.match(r"[}\]]", behind))
        hint = " (a comma before a closing bracket is not allowed)" if comma else ""
        raise ConfigError(
            f"{where} is not valid JSON in line {error.lineno}, column {error.colno}: {error.msg}{hint}."
        ) from None
