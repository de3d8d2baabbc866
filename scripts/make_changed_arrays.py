"""Write tests/locate/changed_arrays/: what the locator says of runs in which one array is changed.

    python scripts/make_changed_arrays.py [RUN ...]

Review the difference: each line names an array, its change, and the rows that are not equal.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "locate"), str(ROOT / "tests")]

from changed_arrays import FOLDER, describe_changes  # noqa: E402
from changed_runs import KINDS, RUNS  # noqa: E402


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or RUNS:
        trace, model, nets = RUNS[name]()
        lines = describe_changes(trace, model, nets, KINDS.get(name, ()))
        path = FOLDER / f"{name}.txt"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {len(lines)} lines")


if __name__ == "__main__":
    main()
