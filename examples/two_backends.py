"""The same seed on two backends, side by side in one process.

python examples/two_backends.py [first] [second]      (default: numpy torch)
"""

import sys

import numpy as np

import ldmref
from ldmref import modes


def main(first: str = "numpy", second: str = "torch") -> int:
    pictures = []
    for name in (first, second):
        model = ldmref.load(backend=name)
        pictures.append(np.asarray(modes.txt2img(model, "red heart", seed=1)[0], int))
    apart = int(np.abs(pictures[0] - pictures[1]).max())
    print(f"{first} and {second} are at most {apart}/255 apart")
    return apart


if __name__ == "__main__":
    main(*sys.argv[1:])
