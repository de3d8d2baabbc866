"""Report which mutants of formulas and samplers the tests kill, for `make mutation`.

    python scripts/mutation_report.py          # a line per module, and every survivor

The script reads the results of `mutmut run` in `mutants/`. Mutants of `array_namespace(...)` lines
are counted separately. They cannot be killed in this run, which uses NumPy arrays only; the tests
with torch and array-api-strict cover them.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

from mutmut.mutation.diff_apply import get_diff_for_mutant

NAMESPACE = "array_namespace("
SURVIVED = {0, 5, 33}  # exit codes: the tests passed, or no test reaches the line


def changed_lines(mutant: str) -> tuple[str, str]:
    """Return the original line and the mutated one."""
    lines = [
        x for x in get_diff_for_mutant(mutant).splitlines() if not x.startswith(("---", "+++"))
    ]
    old = " ".join(x[1:].strip() for x in lines if x.startswith("-"))
    return old, " ".join(x[1:].strip() for x in lines if x.startswith("+"))


def main() -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    survivors = []
    for path in sorted(Path("mutants/ldmref").rglob("*.meta")):
        module = path.name.removesuffix(".py.meta")
        for mutant, code in json.loads(path.read_text())["exit_code_by_key"].items():
            if code is None:
                counts[module]["not run"] += 1
            elif code not in SURVIVED:
                counts[module]["killed"] += 1
            else:
                old, new = changed_lines(mutant)
                kind = "namespace" if NAMESPACE in old else "survived"
                counts[module][kind] += 1
                if kind == "survived":
                    survivors.append((mutant.removeprefix("ldmref."), old, new))
    total = sum(counts.values(), Counter())
    for module, c in [*sorted(counts.items()), ("all", total)]:
        tested = c["killed"] + c["survived"]
        share = f"{c['killed'] / tested:7.1%}" if tested else "      -"
        print(
            f"{module:20} killed {c['killed']:5} of {tested:5} {share}"
            f"   namespace {c['namespace']:3}   not run {c['not run']}"
        )
    for mutant, old, new in survivors:
        print(f"\n{mutant}\n  - {old}\n  + {new}")


if __name__ == "__main__":
    main()
