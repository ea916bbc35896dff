"""Files that an ordinary user may not read: every one that a command reads, one at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability import sources
from tests.support.conversions import convert
from tests.test_adapter import trained

# Files that a command does without, or does not read.
UNREAD = (
    "generation_config.json",
    "README.md",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_bert_config.json",
)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="root gives up capabilities, which are Linux's")
def test_files_without_rights(tmp_path: Path) -> None:
    """An exit code of jaxconv's own, a message that names the file and the reason, nothing published, nothing left."""
    sources.main(tmp_path)
    trained(tmp_path / "safetensors", tmp_path / "adapter")
    convert(tmp_path / "safetensors", tmp_path / "output")
    (tmp_path / "template.jinja").write_text("{{ query }} {{ document }}")
    (tmp_path / "pairs.jsonl").write_text('{"query": "a", "document": "b"}\n')
    command = [sys.executable, "-m", "tests.reliability.unreadable", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    cases = json.loads(ran.stdout)
    read = [case for case in cases if Path(case["file"]).name not in UNREAD]
    assert len(read) >= 26 and {case["command"] for case in read} == {"convert", "inspect", "verify", "score"}
    for case in cases:
        assert "Traceback" not in case["said"] and case["left"] == [], case
        assert case["code"] in (0, 1, 2) and case["published"] == (case["command"] == "convert" and case["code"] == 0), case
    for case in read:
        assert case["code"] in (1, 2) and Path(case["file"]).name in case["said"], case
