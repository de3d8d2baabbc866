"""Write tests/locate/changed_arrays/: what the locator says of runs in which one array is changed.

    python scripts/make_changed_arrays.py [RUN ...]

Review the difference: each line names an array, its change, and the rows that are not equal.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "locate"))

import changed_layers
import changed_pipelines
import changed_runs
from changed_arrays import describe_changes, path_of


def main() -> None:
    every = (*changed_runs.RUNS, *changed_layers.RUNS, *changed_pipelines.RUNS)
    for name in sys.argv[1:] or every:
        if name in changed_layers.RUNS:
            lines = changed_layers.describe(name)
        elif name in changed_runs.RUNS:
            kinds = changed_runs.KINDS.get(name, ())
            lines = describe_changes(*changed_runs.RUNS[name](), kinds, few=True)
        else:
            kinds = changed_pipelines.KINDS[name]
            lines = describe_changes(*changed_pipelines.record(name), (), kinds)
        path = path_of(name)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{path.name}: {len(lines)} lines", flush=True)


if __name__ == "__main__":
    main()
