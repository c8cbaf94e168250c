"""Records of runs: one JSON file each, written whole or not at all."""

import json
import os
from pathlib import Path

from d2l_utils.files import atomic_write

__all__ = ["load_records", "write_json"]


def load_records(folder: str | os.PathLike) -> list[dict]:
    """Return all records below a folder of one grid, sorted by file name.

    Raises:
        FileNotFoundError: if there is none.
    """
    # A folder that is shared with checkpoints has their settings, too.
    there = Path(folder).glob("*-seed*.json")
    files = sorted(file for file in there if not file.name.endswith(".settings.json"))
    if not files:
        raise FileNotFoundError(f"there are no records in {folder}")
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def write_json(path: Path, content) -> None:
    """Write a JSON file whole or not at all."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
