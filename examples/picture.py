"""Draws the README's picture of a conversion: `python -m examples.picture`.

The commands run as they would on a terminal, and rich exports what they printed.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from examples.smollm2 import checkpoint

PROMPT = Path(__file__).parent / "prompt.jinja"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "conversion.svg"
COLUMNS = 118
TOKENS = ["--classifier-from-tokens", '["ĠNo", "ĠYes"]', "--template", "prompt.jinja"]
COMMANDS = (
    ["convert", "smollm2", "out", *TOKENS, "--backend", "jax"],
    ["verify", "smollm2", "out", "--backend", "jax"],
    [
        "score", "out", "--backend", "jax", "--query", "what is the largest ocean?",
        "--document", "The Pacific is the largest ocean on Earth.", "--document", "The meeting was moved to Friday.",
    ],
)  # fmt: skip


def main() -> None:
    """Converts, proves and scores in an empty directory, and writes the picture."""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        (Path(folder) / "smollm2").symlink_to(checkpoint())
        (Path(folder) / "prompt.jinja").write_text(PROMPT.read_text("utf-8"), "utf-8")
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        for arguments in COMMANDS:
            console.print(Text(f"$ jaxconv {shlex.join(arguments)}", style="bold green"))
            command = [sys.executable, "-m", "jaxconv", *arguments]
            environment = {**os.environ, "COLUMNS": str(COLUMNS), "PYTHONPATH": str(PICTURE.parents[2])}
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
            console.print(Text(done.stdout.rstrip() + "\n"))
        PICTURE.parent.mkdir(exist_ok=True)
        console.save_svg(str(PICTURE), title="jaxconv")
    print(f"{PICTURE} written.")


if __name__ == "__main__":
    main()
