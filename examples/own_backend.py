"""A backend of your own: NumPy with a count of operations, checked and used for an image.

python examples/own_backend.py
"""

from collections import Counter

import ldmref
from ldmref import modes
from ldmref.backends.numpy import NumpyBackend
from ldmref.testing import assert_conforms


class CountingBackend(NumpyBackend):
    """Counts convolutions and matrix products."""

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
    assert_conforms(CountingBackend())
    backend = CountingBackend()
    modes.txt2img(ldmref.load(backend=backend), "red heart", seed=1, steps=4)
    print("operations in 4 steps:", dict(backend.calls))
    return backend.calls


if __name__ == "__main__":
    main()
