"""The file of an environment, as Pulumi reads it, but stricter; and what no value may be.

Nothing of a file is quoted that could hold a password: a message names places.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from configs import problems
from configs.errors import ConfigError

CONFIG_KEY = "estate:environment"
"""The Pulumi configuration key that holds the environment."""
_PULUMIS_OWN = ("config", "secretsprovider", "encryptedkey", "encryptionsalt")
_LARGEST = 2**53
"""Beyond it, JSON's readers (Pulumi's engine is one) round."""


class _KeyError(yaml.MarkedYAMLError):
    """A key that stands twice in a mapping, or cannot be one."""


class _Strict(yaml.SafeLoader):
    """YAML whose mappings name each key once: of two, YAML would take the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                self._refuse(key_node, "merge keys (<<) are not allowed; write the keys out")
            if key_node.tag != "tag:yaml.org,2002:str":
                self._refuse(key_node, "a key that is no text; put it in quotes")
            key = str(key_node.value)
            if not key.isprintable():
                self._refuse(key_node, "a key with a line break or a control character")
            if key in seen:
                self._refuse(key_node, f"key {key!r} twice in one mapping; remove one")
            seen.add(key)
        return super().construct_mapping(node, deep)

    @staticmethod
    def _refuse(key: yaml.Node, words: str) -> None:
        raise _KeyError(problem=words, problem_mark=key.start_mark)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The environment in a file, and the keys of `config` beside it. Raises ConfigError."""
    short = short_name(path)
    document = _parsed(path)
    if document is None:
        raise ConfigError(f"{short}: empty; it needs config.{CONFIG_KEY}")
    if not isinstance(document, dict):
        raise ConfigError(f"{short}: {problems.shown(document, hidden=True)}; a mapping is needed")
    if strange := [key for key in document if key not in _PULUMIS_OWN]:
        raise ConfigError(
            [
                f"{short}: {key}: unknown key; allowed here: {', '.join(_PULUMIS_OWN)}"
                for key in strange
            ]
        )
    config = document.get("config")
    if not isinstance(config, dict):
        config = {}
    values = config.get(CONFIG_KEY)
    if values is None and (near := difflib.get_close_matches(CONFIG_KEY, config, n=1)):
        raise ConfigError(f"{short}: config.{near[0]}: unknown key; did you mean {CONFIG_KEY}?")
    if not isinstance(values, dict):
        raise ConfigError(
            f"{short}: config.{CONFIG_KEY}: {problems.shown(values, hidden=True)} is not allowed: "
            "a mapping is required"
        )
    return values, {key: value for key, value in config.items() if key != CONFIG_KEY}


def refuse_impossible(origin: str, values: Mapping[str, Any]) -> None:
    """Raise ConfigError with a line for each key and number that nothing could take."""
    if found := [f"{origin}: {line}" for line in _impossible(values, "")]:
        raise ConfigError(found)


def short_name(path: Path) -> str:
    """How messages name a file of an environment."""
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def _parsed(path: Path) -> Any:
    short = short_name(path)
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Strict)
    except FileNotFoundError:
        known = ", ".join(
            sorted(file.name.split(".")[1] for file in path.parent.glob("Pulumi.*.yaml"))
        )
        raise ConfigError(f"{path}: no such file; environments here: {known or 'none'}") from None
    except RecursionError:
        raise ConfigError(f"{short}: nested too deeply to be read") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        what = str(getattr(error, "problem", None) or "see its syntax")
        if not isinstance(error, _KeyError):
            # It may quote a password: one that begins with `*` or `!` is an alias or a tag to it.
            what = re.sub(r"'[^']*'|\"[^\"]*\"", "(hidden)", what)
        raise ConfigError(f"{short}{where}: not YAML: {what}") from None


def _impossible(value: Any, path: str) -> Iterator[str]:
    where = path or CONFIG_KEY
    if isinstance(value, Mapping):
        for key, child in value.items():
            if isinstance(key, str) and key.isprintable():
                yield from _impossible(child, f"{path}.{key}" if path else key)
            else:
                yield f"{where}: a key that is no text, or not printable; keys are words"
    elif isinstance(value, (list, tuple)):
        for index, child in enumerate(value):
            yield from _impossible(child, f"{path}.{index}")
    elif isinstance(value, (int, float)) and not abs(value) <= _LARGEST:
        yield f"{where}: a number beyond 2^53 (or none at all) is not allowed"
