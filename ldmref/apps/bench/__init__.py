"""`ldmref bench`: how long the pieces of an image take on this machine.

work.py           the pieces, their models and inputs, and a clock
profile.py        time by operation and layer, and growth of the cost
machine.py        the machine of a measurement
formatting.py     results as text and plots

`benchmarks/`, beside the package, compares the same work with other programs.
"""
