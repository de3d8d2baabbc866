"""Conformance of a family of models: what its declaration promises, checked by every tool.

| file | checks |
|---|---|
| `declaration.py` | names, presets, numbers of parameters and of operations |
| `networks.py` | float64 parity with the original, a batch against its rows, padding |
| `runs.py` | every mode, every backend, the estimate |
| `pipelines.py` | a live pipeline: silent, a wrong layer named, equal images |
| `ports.py` | traces, exported graphs, golden cases |
| `learning.py` | a training reaches every parameter |
| `files.py` | folders and single files |

`oracles.py` has what a caller gives, `subject.py` the small models, `report.py` what was found, and
`conforms.py` the two functions that run the checks.
"""
