"""Write a backend that counts convolutions and matrix products, and generate an image with it.

    python examples/own_backend.py

prints how often each operation was called.
"""

from collections import Counter

import ldmref
from ldmref import modes
from ldmref.backends.numpy import NumpyBackend
from ldmref.testing import assert_conforms


class CountingBackend(NumpyBackend):
    """The NumPy backend, counting convolutions and matrix products."""

    name = "counting"

    def __init__(self, device=None, dtype=None):
        super().__init__(device, dtype)
        self.calls = Counter()

    def conv2d(self, *arguments, **options):
        self.calls["conv2d"] += 1
        return super().conv2d(*arguments, **options)

    def linear(self, *arguments, **options):
        self.calls["linear"] += 1
        return super().linear(*arguments, **options)


def main() -> Counter:
    """Check the backend, generate an image with it, and return the counts."""
    assert_conforms(CountingBackend())
    backend = CountingBackend()
    modes.txt2img(ldmref.load(backend=backend), "red heart", seed=1, steps=4)
    print("operations in 4 steps:", dict(backend.calls))
    return backend.calls


if __name__ == "__main__":
    main()
