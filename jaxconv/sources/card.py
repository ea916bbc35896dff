"""What the source's model card says that the card of its conversion must repeat."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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
    if not isinstance(header, dict):
        return {}
    return {key: str(header[key]) for key in KEYS if isinstance(header.get(key), str | int | float)}
