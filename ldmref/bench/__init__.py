"""`ldmref bench`: time and memory of ldmref and its peers.

cases.py          the rows, their models and inputs, and ldmref's side of each
workload.py       the computation of one side, and how long it takes
blocks.py         single blocks of transformers, both sides
peers.py          the other side: diffusers, transformers; engines.py: ONNX Runtime, OpenVINO
training.py       a training step on both sides
compare.py        measures a row; child_process.py: processes whose memory or start is measured
against.py        the working tree and a commit in turn
profile.py        ldmref alone: time by operation and layer, and growth of the cost
machine.py        the machine of a measurement
formatting.py     results as text, tables and plots
"""
