"""What a person is asked on a terminal; elsewhere nothing is asked and nothing guessed."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def ask_preset(names: Sequence[str]) -> str | None:
    """Which of the presets a source is, by number; None without a terminal, without presets, or for none of them."""
    if not names or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    from jaxconv.presets import get

    print("The source names no tokens. Is it one of these, or a fine-tune with the same prompt and answer?", file=sys.stderr)
    for number, name in enumerate(names, 1):
        preset = get(name)
        answer = ", ".join(preset.tokens) or f"ids {', '.join(map(str, preset.token_ids))}"
        print(f"  {number}  {name} ({preset.hub_ids[0]}; {answer})", file=sys.stderr)
    print(f"1 to {len(names)}, or Enter for none: ", end="", file=sys.stderr, flush=True)
    reply = sys.stdin.readline().strip()
    return names[int(reply) - 1] if reply.isdecimal() and 0 < int(reply) <= len(names) else None
