"""Write docs/reliability.md from the fault table in tests/faults.

python scripts/make_reliability_page.py            # write it
python scripts/make_reliability_page.py --check    # exit code 1 if it is out of date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
sys.path.insert(0, str(ROOT / "tests" / "faults"))

INTRODUCTION = """\
# Reliability

This page lists faults (damaged files, wrong numbers, hostile prompts, full disks, ...) and the
behaviour of ldmref. Every row has tests in [tests/faults](../tests/faults). They run the same bad
input through Python, the command line and HTTP, and compare the error code, the exit code or status
and the files that are left: no image, no temporary file, no changed input.
`python scripts/make_reliability_page.py` generates the page from the table of the tests.

An error of ldmref has a stable `code`, a line that says what was wrong and what is allowed, and a
hint. Its class determines the exit code: 2 for an argument, 3 for a file, 4 for a failed check, 5
for a backend that cannot run, 6 for memory, 7 for NaN, 8 for output that cannot be written, 130 and
143 for Ctrl-C and SIGTERM. [SECURITY.md](../SECURITY.md) describes which inputs are trusted.
"""

MEASUREMENTS = """\
## Measurements

| test | result | command |
|---|---|---|
{rows}
"""

MEASURED = (
    ("{cases} bad inputs and {procedures} procedures for {rows} faults, {runs} runs",
     "as listed below", "`pytest tests/faults`"),
    ("1,000 images in one process, with six samplers and settings in turn",
     "resident memory from 63.0 to 63.3 MiB; slope in the second half 0 bytes per image "
     "(bound 1,024)", "`python scripts/soak.py --images 1000`"),
    ("200 images by four threads that share a model, with six samplers and settings in turn",
     "each image equals that of a single thread, bit for bit",
     "`python scripts/soak.py --images 200 --threads 4`"),
    ("1,000 jobs over HTTP, a third of them with an event stream that half of the clients leave",
     "resident memory from 80.6 MiB after 200 jobs to 81.2 MiB after 1,000 (bound 8 MiB more)",
     "`pytest -m slow tests/server/test_load_process.py`"),
    ("1,000 idle event streams and 50 that nobody reads",
     "other requests are answered; each of the 1,000 streams gets the end of its job",
     "`pytest tests/server/test_load_process.py -k streams`"),
    ("400 kills by SIGKILL, SIGTERM or SIGINT at random moments of generation, conversion (to a "
     "file and to a folder) and training",
     "no file was incomplete, lost or changed; 99 times the next run reached the usual result, "
     "pixel for pixel and weight for weight; one Ctrl-C during Python's imports printed a "
     "traceback (since fixed)",
     "`python scripts/kill.py --kills 200 --seed 11`, and `--seed 12`"),
    ("training killed 213 times by SIGKILL at random moments, and resumed",
     "every checkpoint was complete and no saved step was lost; nine trainings finished, each "
     "equal to an uninterrupted training in every byte",
     "`KILLS=200 pytest -m slow tests/training/test_kills.py`"),
    ("four settings of locale, time zone, hash seed, terminal and number of threads",
     "the same images, models and listings, byte for byte",
     "`pytest tests/faults -k environment`"),
    ("the whole suite five times and the property tests twenty times, in random order and with "
     "fresh seeds",
     "no failure in 12,099 tests each time, and in 5,474 (ten of the twenty runs: 5,212, at an "
     "earlier commit)",
     "`make test`; `pytest -n 2 tests/math tests/samplers tests/check`"),
    ("the numerical tests with the kernels of old processors: OpenBLAS for Sandy Bridge, torch and "
     "NumPy without AVX, oneDNN with SSE 4.1, oneMKL in compatible mode",
     "8,289 passed; 25 tests of torch's random numbers had a tolerance for newer kernels only "
     "(since fixed)", "`make processors`"),
    ("34 readers of files, prompts and settings fuzzed for 13,791,143 executions",
     "50 failures found, fixed and [kept as tests](../tests/fuzz/README.md)",
     "`python -m tests.fuzz all --seconds 600`"),
)  # fmt: skip

FREE_THREADED = """\
## Free-threaded Python

ldmref runs on free-threaded CPython 3.14, in which threads of Python run at the same time. On
2026-11-23 the suite passed there without the GIL (`PYTHON_GIL=0 python3.14t -m pytest tests`,
Python 3.14.4 on Linux, x86-64); tests that take minutes and tests of CuPy and ray were not run.
The job `free-threaded` of `.github/workflows/tests.yml` runs the tests of the mathematics,
samplers, models, backends, modes and server there; it has not run yet, and a failure does not
block.
Threads may share a model: `pytest tests/modes/test_shared_by_threads.py` compares the images of
threads that start together on a new model, on each backend and on all backends at once, with
those of a serial run, bit for bit.

Wheels for `cp314t` exist for all requirements and for the extras `torch`, `cupy`, `onnx`,
`openvino`, `server`, `plot`, `gguf`, `hub` and `train`. There are none of ray, so `ldmref batch`
has the executors `serial` and `process`. Those of safetensors are pre-releases (0.9.0rc1). With
`--only-binary safetensors`, pip installs one instead of building 0.8.0, which needs a Rust
compiler.

`ldmref doctor` begins with `3.14.4 free-threaded, without the GIL`. The backends `numpy`, `torch`
and `onnx` leave the GIL off. Importing `openvino` 2026.4.1 turns it on, with a warning, and so
does `triton` 3.7.1, which `import diffusers`, `import peft` and `torch.compile` load.
`PYTHON_GIL=0` keeps it off, as in the run of the suite.

An image takes about as long as with Python 3.11, but threads generate several images faster:

```python
import time
from concurrent.futures import ThreadPoolExecutor

import ldmref
from ldmref import modes

model = ldmref.load()


def generate(seed):
    return modes.txt2img(model, "red heart", seed=seed)


generate(0)
for threads in (1, 2):
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(generate, range(4)))
    print(f"{threads} threads: {time.perf_counter() - start:.2f} s")
```

With `OMP_NUM_THREADS=1` on two processors of an AMD EPYC, this took:

| Python | four images in one thread | in two threads |
|---|---|---|
| 3.14.4 free-threaded, without the GIL | 2.59 s | 1.37 s |
| 3.14.4 free-threaded, with the GIL (`PYTHON_GIL=1`) | 2.59 s | 2.01 s |
| 3.11.7 | 2.40 s | 1.90 s |

A step of the U-Net on two threads (`python -m benchmarks threads-embedded --rounds 7`) takes 0.87
of the time on one thread without the GIL (25.3 instead of 29.1 ms), and 0.93 on Python 3.11 (26.3
instead of 28.1 ms).
"""


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def table(first: int, last: int) -> Iterator[str]:
    """Yield the rows of a block."""
    from fault_all import CASES
    from fault_cases import PROCEDURES
    from fault_interfaces import INTERFACES, interfaces_of
    from fault_remaining import REMAINING
    from fault_rows import ROWS

    yield "| | fault | behaviour | codes | tests |"
    yield "|---|---|---|---|---|"
    for number in (n for n in ROWS if first <= n <= last):
        cases = [case for case in CASES if case.row == number]
        procedures = [procedure for procedure in PROCEDURES if procedure.row == number]
        codes = sorted({x.code for x in [*cases, *procedures] if x.code})
        counts = {
            name: sum(name in interfaces_of(case) for case in cases)
            + sum(name in procedure.interfaces for procedure in procedures)
            for name in INTERFACES
        }
        tests = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        wrong = sum(name.startswith(f"test_answer[{number}-") for name in REMAINING)
        answer = ROWS[number].answer + (f" (not yet in {wrong} of the tests)" if wrong else "")
        cells = (str(number), ROWS[number].fault, answer, ", ".join(map(code, codes)), tests)
        yield f"| {' | '.join(cells)} |"


def measurements() -> str:
    """Return the first table: counts, and the results of the scripts."""
    from fault_all import CASES
    from fault_cases import PROCEDURES
    from fault_interfaces import interfaces_of
    from fault_rows import ROWS

    runs = sum(len(interfaces_of(case)) for case in CASES) + len(PROCEDURES)
    counts = {"cases": len(CASES), "procedures": len(PROCEDURES), "rows": len(ROWS), "runs": runs}
    rows = (" | ".join(line).format(**counts) for line in MEASURED)
    return MEASUREMENTS.format(rows="\n".join(f"| {row} |" for row in rows))


def page() -> str:
    """Return the text of docs/reliability.md."""
    from fault_rows import BLOCKS

    starts = [*BLOCKS, 1000]
    blocks = [
        f"## {BLOCKS[first]}\n\n" + "\n".join(table(first, last - 1)) + "\n"
        for first, last in pairwise(starts)
    ]
    return "\n".join([INTRODUCTION, measurements(), FREE_THREADED, *blocks])


def main() -> int:
    text = page()
    if "--check" in sys.argv[1:]:
        return PAGE.read_text("utf-8") != text
    PAGE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
