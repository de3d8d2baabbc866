"""The score of `make mutation`: which changes of formulas and samplers the tests notice.

    python scripts/mutation_report.py          # a line per module, and every survivor

Reads what `mutmut run` left in `mutants/`. Lines that only ask which array library an argument
is of (`array_namespace(...)`) are counted apart: in this run all arrays are NumPy's, so nothing
can be noticed there; the tests on torch and array-api-strict see those.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

from mutmut.mutation.diff_apply import get_diff_for_mutant

NAMESPACE = "array_namespace("
UNNOTICED = {0, 5, 33}  # exit codes: tests passed, or no test reaches the line


def changed_lines(mutant: str) -> tuple[str, str]:
    """The line as it is, and as the mutant has it."""
    lines = [
        x for x in get_diff_for_mutant(mutant).splitlines() if not x.startswith(("---", "+++"))
    ]
    old = " ".join(x[1:].strip() for x in lines if x.startswith("-"))
    return old, " ".join(x[1:].strip() for x in lines if x.startswith("+"))


def main() -> None:
    counts: dict[str, Counter] = defaultdict(Counter)
    survivors = []
    for path in sorted(Path("mutants/ldmref").rglob("*.meta")):
        module = path.name.removesuffix(".py.meta")
        for mutant, code in json.loads(path.read_text())["exit_code_by_key"].items():
            if code is None:
                counts[module]["not run"] += 1
            elif code not in UNNOTICED:
                counts[module]["noticed"] += 1
            else:
                old, new = changed_lines(mutant)
                kind = "namespace" if NAMESPACE in old else "survived"
                counts[module][kind] += 1
                if kind == "survived":
                    survivors.append((mutant.removeprefix("ldmref."), old, new))
    total = sum(counts.values(), Counter())
    for module, c in [*sorted(counts.items()), ("all", total)]:
        seen = c["noticed"] + c["survived"]
        share = f"{c['noticed'] / seen:7.1%}" if seen else "      -"
        print(f"{module:20} noticed {c['noticed']:5} of {seen:5} {share}"
              f"   namespace {c['namespace']:3}   not run {c['not run']}")  # fmt: skip
    for mutant, old, new in survivors:
        print(f"\n{mutant}\n  - {old}\n  + {new}")


if __name__ == "__main__":
    main()
