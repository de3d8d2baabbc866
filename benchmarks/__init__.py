"""ldmref beside other programs, and beside its older commits: `python -m benchmarks --help`.

cases.py          the rows, and ldmref's side of each
blocks.py         single blocks of transformers, both sides
peers.py          the other side: diffusers, transformers; engines.py: ONNX Runtime, OpenVINO
training.py       a training step on both sides
compare.py        measures a row; child_process.py: processes whose memory or start is measured
against.py        the working tree and a commit in turn
formatting.py     results as text, table and plot
cpu.py, gpu.py    every row of a machine -> results/MACHINE
charts.py         results as drawings; make_page.py: results -> docs/performance.md

`ldmref bench` measures ldmref alone (`ldmref/apps/bench`).
"""
