"""RePaint: jump back up by the forward process on the way down, and denoise again.

What a constraint puts into a state and what the sampler made around it do not fit at first; going
through the same sigmas several times lets them agree.

Source: Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1 and appendix B (jumps).
"""

from __future__ import annotations


def repaint_visits(steps: int, jump_length: int, jump_n_sample: int, first: int = 0) -> list[int]:
    """Indices into the sigmas in the order in which RePaint visits them, for `sample`.

    Every `jump_length` steps, counted from the last sigma that has noise, it jumps that many
    indices back up, `jump_n_sample` - 1 times.

    Args:
        steps: of the sampler.
        jump_length: j, from 1; there are no jumps if it is `steps` or more.
        jump_n_sample: r, how often each stretch is denoised, from 1 (no jumps).
        first: index of the first sigma; the last is `first` + `steps`.

    >>> repaint_visits(4, 2, 2)
    [0, 1, 2, 3, 1, 2, 3, 4]
    >>> repaint_visits(3, 1, 2)
    [0, 1, 0, 1, 2, 1, 2, 3]
    """
    starts = range(0, steps - jump_length, jump_length)
    jumps = {steps - 1 - start: jump_n_sample - 1 for start in starts}
    visits = [0]
    while visits[-1] < steps:
        i = visits[-1]
        if jumps.get(i):
            jumps[i] -= 1
            visits.append(i - jump_length)
        else:
            visits.append(i + 1)
    return [first + i for i in visits]
