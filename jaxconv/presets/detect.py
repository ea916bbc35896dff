"""Which preset a source has: the flag, else its hub id. Never a guess from the architecture."""

from __future__ import annotations

from jaxconv.errors import RefusedError
from jaxconv.plan import Source
from jaxconv.presets import Preset, for_hub_id, get


def detect(source: Source, preset: str | None) -> tuple[Preset | None, str | None]:
    """The preset and how it was found. Raises `RefusedError` for one that is known not to convert."""
    if preset is not None:
        found, origin = get(preset), "--preset"
    else:
        hub_id = source.hub_id or source.base_id
        by_id = for_hub_id(hub_id) if hub_id else None
        if by_id is None:
            return None, None
        found, origin = by_id, f"hub id {hub_id}"
    if found.refusal:
        raise RefusedError(f"{source.name} ({found.name}) cannot be converted: {found.refusal} {found.alternative or ''}")
    return found, origin
