"""Add up the durations that a run of the tests recorded, by folder and by file.

python scripts/sum_durations.py build/durations/test.json

With `--few`, write how many tests of each function `make test` is to run, in tests/few_tests.txt.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

LIMIT = 3.0  # seconds, as in tests/durations.py
SHARE = 0.5  # seconds of processor time that the tests of a function may take in `make test`
SHORT = 0.05  # seconds of a test on average: such functions run whole
# So do formulas, and what a family must do, of which each test is another one.
WHOLE = ("tests/math/", "tests/check/", "tests/families/test_families_conform.py")
FEW = Path(__file__).resolve().parents[1] / "tests" / "few_tests.txt"


def main() -> None:
    """Print the processor time of each folder, of the longest files and of the longest tests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--longest", type=int, default=20, metavar="N")
    parser.add_argument("--few", action="store_true", help="write tests/few_tests.txt")
    arguments = parser.parse_args()
    tests = {}
    for path in arguments.files:
        tests |= json.loads(path.read_text("utf-8"))["tests"]
    if arguments.few:
        lines = FEW.read_text("utf-8").splitlines()
        known = {name: int(number) for name, number in map(str.split, lines)}
        numbers = choose_few({name: test["call"] for name, test in tests.items()}, known)
        FEW.write_text("".join(f"{name} {n}\n" for name, n in sorted(numbers.items())), "utf-8")
        return
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


def choose_few(seconds: Mapping[str, float], known: Mapping[str, int]) -> dict[str, int]:
    """Return how many tests of a function `make test` is to run, for those of which it runs few.

    They are as many as take half a second, and at least one.

    Args:
        seconds: The processor time of each test.
        known: The numbers of before: a function does not get more than it had.

    >>> tests = {f"a.py::test_slow[{i}]": 0.4 for i in range(9)}
    >>> tests |= {f"a.py::test_short[{i}]": 0.1 for i in range(9)}
    >>> choose_few(tests | {"a.py::test_alone": 3.0}, {"a.py::test_short": 3})
    {'a.py::test_slow': 1, 'a.py::test_short': 3}
    """
    functions: defaultdict[str, list[float]] = defaultdict(list)
    for name, spent in seconds.items():
        functions[name.partition("[")[0]].append(spent)
    few = dict(known)
    for name, spent in functions.items():
        mean = sum(spent) / len(spent)
        whole = mean <= SHORT or name.startswith(WHOLE)
        most = len(spent) if whole else max(1, int(SHARE / mean))
        if most < len(spent):
            few[name] = min(most, known.get(name, most))
    return {name: few[name] for name in functions if name in few}


if __name__ == "__main__":
    main()
