"""Configuration files as keys and values: from strangers too, so nothing in them is executed, fetched or multiplied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from san_cliptrase.engine.protocol import ConfigError

MOST_BYTES = 2**20
_BASE = "_BASE_"


class _PlainLoader(yaml.SafeLoader):
    """YAML without tags that make objects, and without aliases: ten lines of those can unfold into gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not read", self.peek_event().start_mark)
        return super().compose_node(parent, index)


def read_layers(path: Path, above: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """The content of a configuration file and of those under its ``_BASE_``, the lowest first.

    Args:
        path: YAML file.
        above: files that have this one as their base.

    Raises:
        ConfigError: a file is missing, larger than a megabyte, not plain YAML or no mapping of keys; or ``_BASE_`` is
            not the name of a local file, or leads back to a file above.
    """
    path = path.resolve()
    if path in above:
        raise ConfigError(f"{path}: its {_BASE} leads back to itself")
    content = _parse(path)
    base = content.pop(_BASE, None)
    if base is None:
        return [content]
    if not isinstance(base, str) or "://" in base or "\0" in base:
        raise ConfigError(f"{path}: {_BASE} must name a file on this machine, not {base!r:.100}")
    return [*read_layers(path.parent / Path(base).expanduser(), (*above, path)), content]


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
    if content is None:
        return {}
    if not isinstance(content, dict) or not _named(content):
        raise ConfigError(f"{path} cannot be read as keys and values: expected KEY: VALUE, with text as keys")
    return content


def _named(content: dict) -> bool:
    """Whether all keys are text, those of inner mappings too."""
    return all(isinstance(key, str) for key in content) and all(
        _named(value) for value in content.values() if isinstance(value, dict)
    )
