"""ldmref beside other programs, and beside its older commits: `python -m benchmarks --help`.

cases.py          the rows, and ldmref's side of each
blocks.py         single blocks of transformers, both sides
peers.py          the other side: diffusers, transformers; engines.py: ONNX Runtime, OpenVINO
training.py       a training step on both sides
compare.py        measures a row; child_process.py: processes whose memory or start is measured
against.py        the working tree and a commit in turn
formatting.py     results as text, table and plot
alone.py          how long the pieces of an image take by ldmref alone
work.py           these pieces, their models and inputs, and a clock
profile.py        time by operation and layer, and growth of the cost
machine.py        the machine of a measurement
measured.py       measurements as text and plots
cpu.py, gpu.py    every row of a machine -> results/MACHINE
charts.py         results as drawings; make_page.py: results -> docs/performance.md
"""
