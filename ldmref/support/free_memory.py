"""The memory that this process may take, where the system says it (Linux), and the lack of it."""

from __future__ import annotations

from pathlib import Path

from ldmref.errors import LdmrefError

MACHINE = Path("/proc/meminfo")
PROCESS = Path("/proc/self/status")
GROUP = Path("/sys/fs/cgroup")


def find_free_memory() -> int | None:
    """Return the bytes that this process can hold: those that are free, and those that it holds.

    A limit of its control group (containers, batch systems) counts, too. Pages of mapped files are
    free, since the system takes them back. None: the system does not say it.

    >>> found = find_free_memory()
    >>> found is None or found > 2**20
    True
    """
    free = _read_sizes(MACHINE).get("MemAvailable")
    own = _read_sizes(PROCESS).get("RssAnon", 0)
    if free is None:
        return None
    most = _read_number(GROUP / "memory.max")
    taken = _read_sizes(GROUP / "memory.stat", 1).get("anon")
    if most is not None and taken is not None:
        free = min(free, max(0, most - taken))
    return free + own


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an array library ran out of memory; each has its own error."""
    if isinstance(error, LdmrefError):
        return False
    words = ("can't allocate memory", "out of memory")
    named = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    return named or any(text in str(error) for text in words)


def _read_sizes(path: Path, unit: int = 1024) -> dict[str, int]:
    """Return the numbers of a file whose lines are a name and a number of units; {} without it."""
    try:
        lines = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: unit * int(words[1]) for words in lines if words[1:2] and words[1].isdigit()}


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
