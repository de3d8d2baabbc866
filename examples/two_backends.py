"""Generate the same image on two backends in one process, and compare the results.

    python examples/two_backends.py [first] [second]      (default: numpy torch)

prints the largest difference between two pixel values.
"""

import sys

import numpy as np

import ldmref
from ldmref import modes
from ldmref.errors import LdmrefError


def main(first: str = "numpy", second: str = "torch") -> int:
    """Print and return the largest difference between two images with the same seed."""
    images = []
    for backend in (first, second):
        model = ldmref.load(backend=backend)
        images.append(np.asarray(modes.txt2img(model, "red heart", seed=1)[0], int))
    difference = int(np.abs(images[0] - images[1]).max())
    print(f"{first} and {second} differ by at most {difference}/255")
    return difference


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except LdmrefError as error:
        sys.exit(f"{error}; {error.hint}")
