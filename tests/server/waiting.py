"""Waiting in tests of the server."""

import time


def wait_until(condition, seconds=20.0):
    """Return when `condition()` holds; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
