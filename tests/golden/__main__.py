"""`python -m tests.golden [PATTERN ...]`, `python -m tests.golden --sources`: records again."""

from __future__ import annotations

import json
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from tests.golden import texts
from tests.golden.cases import Case, cases, smollm2_cases
from tests.golden.comparison import HASHES, Recorded, recorded
from tests.golden.conversion import run
from tests.golden.sources import sources


def main(arguments: list[str]) -> int:
    """Records the sources, or the output of the cases that match a pattern (all without one)."""
    if arguments == ["--sources"]:
        from tests.golden.record_sources import record

        record().save()
        return 0
    table = (*cases(), *smollm2_cases())
    patterns = arguments or ["*"]
    matching = [case for case in table if any(fnmatch(case.name, pattern) for pattern in patterns)]
    if not matching:
        print(f"no case matches {' '.join(patterns)}", file=sys.stderr)
        return 1
    record_outputs(matching, {case.name for case in table})
    return 0


def record_outputs(matching: list[Case], names: set[str]) -> None:
    """Runs the cases, and writes `hashes.json` and `texts.json` without what no case of `names` has any more."""
    record = {name: entry for name, entry in recorded().items() if name in names}
    store = texts.load()
    for case in matching:
        with tempfile.TemporaryDirectory() as folder:
            output = run(case, Path(folder))
        entry: Recorded = {"source": output.source, "files": {}}
        for name, file in sorted(output.files.items()):
            entry["files"][name] = file.sha256
            if file.text is not None:
                store.add(name, file.text)
        record[case.name] = entry
        print(f"{case.name}: {len(output.files)} files", file=sys.stderr)
    used = {entry for source in sources().values() for entry in source["files"].items()}
    used |= {file for entry in record.values() for file in entry["files"].items()}
    store.keep(used).save()
    HASHES.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
