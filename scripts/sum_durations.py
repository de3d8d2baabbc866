"""Add up the durations that a run of the tests recorded, by folder and by file.

python scripts/sum_durations.py build/durations/test.json
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

LIMIT = 3.0  # seconds, as in tests/durations.py


def main() -> None:
    """Print the processor time of each folder, of the longest files and of the longest tests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--longest", type=int, default=20, metavar="N")
    arguments = parser.parse_args()
    tests = {}
    for path in arguments.files:
        tests |= json.loads(path.read_text("utf-8"))["tests"]
    print(f"{sum(t['processor'] for t in tests.values()):8.0f} s of processor time in all")
    for depth in (2, None):
        times: Counter[str] = Counter()
        for name, test in tests.items():
            times["/".join(name.partition("::")[0].split("/")[:depth])] += test["processor"]
        print("\nby file" if depth is None else "by folder")
        for name, seconds in times.most_common(None if depth else arguments.longest):
            print(f"{seconds:8.1f} s  {name}")
    over = {name: test["call"] for name, test in tests.items() if test["call"] > LIMIT}
    print(f"\nmore than {LIMIT:g} s without fixtures: {len(over)} tests")
    for name, seconds in sorted(over.items(), key=lambda entry: -entry[1]):
        print(f"{seconds:8.1f} s  {name}")
    print("\nby test")
    longest = sorted(tests.items(), key=lambda entry: -entry[1]["processor"])
    for name, test in longest[: arguments.longest]:
        print(f"{test['processor']:8.1f} s  {name}")


if __name__ == "__main__":
    main()
