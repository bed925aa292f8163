"""Configuration files as keys and values: from strangers too, so nothing in them is executed, fetched or multiplied."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from san_cliptrase.errors import ConfigError

MOST_BYTES, MOST_ALIASES = 2**20, 100
_BASE = "_BASE_"


class _PlainLoader(yaml.SafeLoader):
    """YAML without tags that make objects, and with few aliases, none in what another one names.

    Ten lines of aliases of aliases can unfold into gigabytes; detectron2's own dumps have a flat one.
    """

    aliases = anchored = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            self.aliases += 1
            if self.anchored or self.aliases > MOST_ALIASES:
                raise yaml.composer.ComposerError(None, None, "aliases upon aliases are not read", event.start_mark)
            return super().compose_node(parent, index)
        names = int(event.anchor is not None)
        self.anchored += names
        node = super().compose_node(parent, index)
        self.anchored -= names
        return node


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
        return [*read_layers(path.parent / Path(base).expanduser(), (*above, path)), content]
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{path}, {_BASE} {base:.100}: {error}") from error


def _parse(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise ConfigError(f"there is no configuration file {path}")
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise ConfigError(f"{path} has more than {MOST_BYTES} bytes: is it a configuration?")
        content = yaml.load(text, _PlainLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not plain YAML: {error}") from error
    except (OSError, ValueError, RecursionError, TypeError, AttributeError, KeyError, OverflowError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} cannot be read as keys and values: {error!r:.300}") from error
    if not isinstance(content, dict) or not _named(content):
        raise ConfigError(f"{path} cannot be read as keys and values: expected KEY: VALUE, with text as keys")
    return content


def _named(content: dict) -> bool:
    """Whether all keys are text, those of inner mappings too."""
    return all(isinstance(key, str) for key in content) and all(
        _named(value) for value in content.values() if isinstance(value, dict)
    )
