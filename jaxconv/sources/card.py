"""What the source's model card says that the card of its conversion must repeat."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jaxconv.json_files import JsonObject
from jaxconv.sources.assets import read_asset

NAME = "README.md"
KEYS = ("license", "license_name", "license_link")
FENCE = "---"


def read_licence(assets: Path) -> Mapping[str, str]:
    """The licence keys in the header of the card in the directory `assets`; empty without a card or a header.

    A header that is not YAML is ignored: the hub shows such a card without metadata too.

    Raises:
        SourceError: The card cannot be read, or is a symbolic link that leads out of the source.
    """
    header = _header(assets)
    return {key: str(header[key]) for key in KEYS if isinstance(header.get(key), str | int | float)}


def read_base_model(assets: Path) -> str | None:
    """The one `base_model` in the header of the card in the directory `assets`; None without one, or with several.

    Raises:
        SourceError: The card cannot be read, or is a symbolic link that leads out of the source.
    """
    base = _header(assets).get("base_model")
    if isinstance(base, list) and len(base) == 1:
        base = base[0]
    return base if isinstance(base, str) else None


def _header(assets: Path) -> JsonObject:
    """The header of the card as an object; empty without one."""
    import yaml

    if not (assets / NAME).is_file():
        return {}
    lines = read_asset(assets, NAME).decode("utf-8-sig", "replace").splitlines()
    if not lines or lines[0] != FENCE or FENCE not in lines[1:]:
        return {}
    try:
        header = yaml.safe_load("\n".join(lines[1 : lines.index(FENCE, 1)]))
    except (yaml.YAMLError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}
