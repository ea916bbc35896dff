"""What the source's own model card says that its conversion must repeat."""

from __future__ import annotations

from pathlib import Path


def read_licence(assets: Path) -> str:
    """The `license:` lines of the source's own card header, as they stand there; empty without one."""
    path = assets / "README.md"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return ""
    header = lines[1 : lines.index("---", 1)]
    keys = ("license:", "license_name:", "license_link:")
    return "".join(line + "\n" for line in header if line.startswith(keys))
