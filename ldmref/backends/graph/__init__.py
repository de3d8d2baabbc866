"""Networks as graphs: their definition is run once on symbolic arrays, which record each operation.

`trace` (tracer.py) makes a `Graph` of a network with the operators of ONNX, and `onnx.py` writes
it as an ONNX model. Neither copies a parameter, and shapes may have open sizes.
"""
