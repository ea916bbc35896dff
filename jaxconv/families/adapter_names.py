"""What PEFT calls the tensors of a composite -> what its checkpoint calls them.

PEFT takes the names of transformers' modules, and these have moved since files were written: a language model that was
`model.layers` is `model.language_model.layers` today, whichever of the two the base's files have.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from jaxconv.families.family import Family
from jaxconv.families.row import Composite, Spelling
from jaxconv.families.tower_names import INNER


def adapter_names(
    family: Family, composite: Composite, tensors: Collection[str]
) -> Callable[[Sequence[str]], Mapping[str, str]]:
    """The function that names an adapter's tensors as a composite's checkpoint has them.

    Args:
        family: The family of the composite, in the spelling of its checkpoint.
        composite: Its row.
        tensors: The names of the checkpoint's tensors.
    """
    written = next(entry for entry in composite.spellings if f"{entry.prefix}embed_tokens.weight" == family.head.embedding)
    prefixes = {before: after for entry in composite.spellings for before, after in _parts(entry, written)}

    def named(name: str) -> str:
        fitting = [prefix for prefix in prefixes if name.startswith(prefix)]
        if not fitting:
            return name
        before = max(fitting, key=len)
        after, rest = prefixes[before], name.removeprefix(before)
        inner = f"{after}{INNER}{rest}"
        return inner if inner in tensors else f"{after}{rest}"

    return lambda names: {name: named(name) for name in names}


def _parts(before: Spelling, after: Spelling) -> list[tuple[str, str]]:
    return [
        (before.prefix, after.prefix),
        (f"{before.head}.", f"{after.head}."),
        *zip(before.towers, after.towers, strict=True),
    ]
