"""How large pictures may be: what a reranker's authors let through against what the source's processor is set to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jaxconv.json_files import JsonObject, parse_json
from jaxconv.presets import Preset

# Where a processor keeps the limits of pictures: the file, and the keys that lead to the settings.
PLACES = (("preprocessor_config.json", ()), ("processor_config.json", ("image_processor",)))


def pixels_to_serve(preset: Preset | None, files: Mapping[str, bytes]) -> tuple[int, int] | None:
    """The least and most pixels that a server has to be told; None where the processor's files say the same, or nobody knows.

    Args:
        preset: The known reranker.
        files: The files beside the weights, by name.

    Raises:
        SourceError: A file of the processor is damaged.
    """
    if preset is None or preset.pixels is None:
        return None
    stated = list(_limits(files))
    return None if stated and all(limits == preset.pixels for limits in stated) else preset.pixels


def _limits(files: Mapping[str, bytes]) -> Iterator[tuple[object, object]]:
    for name, keys in PLACES:
        settings: object = parse_json(files[name], name, "Download it again.") if name in files else None
        for key in keys:
            settings = settings.get(key) if isinstance(settings, dict) else None
        if isinstance(settings, dict):
            yield _of(settings)


def _of(settings: JsonObject) -> tuple[object, object]:
    """Both spellings: `size` of transformers 5, and `min_pixels` and `max_pixels`."""
    size = settings.get("size")
    size = size if isinstance(size, dict) else {}
    least, most = settings.get("min_pixels"), settings.get("max_pixels")
    return (
        size.get("shortest_edge") if least is None else least,
        size.get("longest_edge") if most is None else most,
    )
