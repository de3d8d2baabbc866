"""Measure attention with a bias against its composition of array operations, as ratios.

python scripts/measure_attention.py                       # numpy and torch
python scripts/measure_attention.py --tokens 4096 --heads 30

Times are the least processor time of several calls; memory is how far the process grew at most, in
a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.models.layers import mask_bias

WIDTH = 64
CALLS = 5
BACKENDS = (("numpy", "exact"), ("numpy", "fast"), ("torch", "fast"))


def compose(ops: Backend, q: Any, k: Any, v: Any, bias: Any) -> Any:
    """Return softmax(q k^T / sqrt(d) + b) v by operations on whole arrays."""
    xp = ops.xp
    scores = xp.matmul(q, xp.matrix_transpose(k)) * q.shape[-1] ** -0.5 + bias
    weights = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
    return xp.matmul(weights / xp.sum(weights, axis=-1, keepdims=True), v)


def attend(ops: Backend, q: Any, k: Any, v: Any, bias: Any) -> Any:
    return ops.attention(q, k, v, bias=bias)


def plain(ops: Backend, q: Any, k: Any, v: Any, bias: Any) -> Any:
    return ops.attention(q, k, v)


def measure(
    function: Callable, backend: tuple[str, str], kind: str, tokens: int, heads: int
) -> tuple[float, float]:
    """Return seconds of a call, and MiB by which the first one let the process grow."""
    name, speed = backend
    ops = get_backend(name, speed=speed)
    normal = np.random.default_rng(0).standard_normal
    q, k, v = (ops.asarray(normal((1, heads, tokens, WIDTH), np.float32)) for _ in range(3))
    bias = mask_bias(ops, ops.asarray((np.arange(tokens) < tokens // 2)[None].astype(np.int64)))
    if kind == "positions":
        bias = ops.asarray(normal((1, heads, tokens, tokens), np.float32))
    with ops.inference():
        before = peak()
        function(ops, q, k, v, bias)
        grown = peak() - before
        seconds = []
        for _ in range(CALLS):
            start = time.process_time()
            function(ops, q, k, v, bias)
            seconds.append(time.process_time() - start)
    return min(seconds), grown


def peak() -> float:
    """Return the largest size of this process so far, in MiB (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(*args: Any) -> tuple[float, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, args)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=8)
    sizes = vars(parser.parse_args()).values()
    print("backend        bias        seconds  composition  ratio  of plain  MiB  composition")
    for backend in BACKENDS:
        for kind in ("mask", "positions"):
            ours, theirs, least = (
                alone(f, backend, kind, *sizes) for f in (attend, compose, plain)
            )
            ratios = ours[0] / theirs[0], ours[0] / least[0]
            print(
                f"{' '.join(backend):13}  {kind:10}  {ours[0]:7.3f}  {theirs[0]:11.3f}  "
                f"{ratios[0]:5.2f}  {ratios[1]:8.2f}  {ours[1]:3.0f}  {theirs[1]:11.0f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
