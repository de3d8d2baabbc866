"""Work that must stay cheap, whatever it is given."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

LIMIT = 20.0  # seconds of this process; the right algorithm takes a second at most


@contextmanager
def stays_cheap() -> Iterator[None]:
    """Check that a block ends soon, for inputs on which a quadratic algorithm takes minutes."""
    start = time.process_time()
    try:
        yield
    finally:
        seconds = time.process_time() - start
        assert seconds < LIMIT, f"{seconds:.1f} s of processor time"
