"""YAML files, and configurations as keys and values: from strangers too, so nothing is run, fetched or multiplied."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from san_cliptrase.errors import ConfigError
from san_cliptrase.files import from_home, read_bounded

MOST_BYTES, MOST_ALIASES = 2**20, 100
MOST_REPEATED = 2**18
"""How much aliases may add: characters of the values that they repeat, and one more for each value."""
MOST_DIGITS = 100
_BASE = "_BASE_"


class _PlainLoader(yaml.SafeLoader):
    """YAML without tags that make objects and without repeated keys, and with few aliases, none in what another names.

    Ten lines of aliases of aliases can unfold into gigabytes, as can one long list with many aliases; detectron2's own
    dumps have short flat ones.
    """

    aliases = anchored = repeated = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            self.aliases += 1
            if self.anchored or self.aliases > MOST_ALIASES:
                raise yaml.composer.ComposerError(None, None, "aliases upon aliases are not read", event.start_mark)
            node = super().compose_node(parent, index)
            self.repeated += _size(node)
            if self.repeated > MOST_REPEATED:
                raise yaml.composer.ComposerError(
                    None,
                    None,
                    f"aliases that repeat more than {MOST_REPEATED} characters are not read",
                    event.start_mark,
                )
            return node
        names = int(event.anchor is not None)
        self.anchored += names
        node = super().compose_node(parent, index)
        self.anchored -= names
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, known = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in known:
                raise yaml.composer.ComposerError(
                    None, None, f"the key {key.value!r:.100} is there twice", key.start_mark
                )
            if name:
                known.add(name)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """No number of thousands of digits, on which arithmetic takes minutes and which Python does not print."""
        if len(node.value) > MOST_DIGITS:
            raise yaml.constructor.ConstructorError(
                None, None, f"a whole number of more than {MOST_DIGITS} characters is not read", node.start_mark
            )
        return super().construct_yaml_int(node)


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)


def _size(node: yaml.Node) -> int:
    """Characters of all values in a node without aliases, and one more for each."""
    if isinstance(node, yaml.ScalarNode):
        return 1 + len(node.value)
    parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    return 1 + sum(map(_size, parts))


def read_layers(path: Path, above: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """The content of a configuration file and of those under its ``_BASE_``, the lowest first.

    Args:
        path: YAML file.
        above: files that have this one as their base.

    Raises:
        ConfigError: a file is missing, larger than a megabyte, not plain YAML or no mapping of keys; or ``_BASE_`` is
            not the name of a local file, or leads back to a file above.
    """
    path = Path(os.path.abspath(path))
    if path in above:
        raise ConfigError(f"{path}: its {_BASE} leads back to itself")
    content = _parse(path)
    base = content.pop(_BASE, None)
    if base is None:
        return [content]
    if not isinstance(base, str) or "://" in base or "\0" in base:
        raise ConfigError(f"{path}: {_BASE} must name a file on this machine, not {base!r:.100}")
    try:
        return [*read_layers(path.parent / from_home(base), (*above, path)), content]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}, {_BASE} {base:.100}: {error}") from error


def read_yaml(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """What is in a YAML file: mappings, lists, texts, numbers, dates and None; None for an empty file.

    Raises:
        FileNotFoundError: There is no such file.
        ConfigError: It cannot be read, is no regular file, too large, or not plain YAML (see :class:`_PlainLoader`).
    """
    try:
        return yaml.load(read_bounded(path, most_bytes), _PlainLoader)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not plain YAML: {error}") from error
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError, OverflowError) as error:
        raise ConfigError(f"{path} cannot be read as keys and values: {error!r:.300}") from error


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no configuration file {path}") from error
    if not isinstance(content, dict) or not _named(content):
        raise ConfigError(f"{path} cannot be read as keys and values: expected KEY: VALUE, with text as keys")
    return content


def _named(content: dict) -> bool:
    """Whether all keys are text, those of inner mappings too."""
    return all(isinstance(key, str) for key in content) and all(
        _named(value) for value in content.values() if isinstance(value, dict)
    )
