"""Quantised weights: the numbers that each format stores, and the exact way back to float32.

| module            | formats                                              | met in                |
|-------------------|------------------------------------------------------|-----------------------|
| `bits.py`         | how numbers of 1, 2 and 4 bits share a byte          | all                   |
| `ggml.py`         | Q4_0 to Q8_0: 32 weights and a scale; Q2_K to Q6_K:  | GGUF                  |
|                   | 256 weights, and scales of scales; types by number   |                       |
| `encode.py`,      | the way there: bytes of ggml's types from float32    | GGUF                  |
| `encode_k.py`     |                                                      |                       |
| `float8.py`       | e4m3fn, e5m2; e8m0, which holds scales               | safetensors           |
| `float4.py`       | e2m1 with scales: MXFP4, NVFP4 of three programs     | GGUF, safetensors     |
|                   | NF4 and FP4 of bitsandbytes                          | safetensors           |
| `rounding.py`     | what fp8 and NF4 make of weights, without bytes      | memory                |
| `layers.py`       | how a file says which weights are quantised, and how | safetensors           |

Each function of the other modules takes bytes and returns float32, so that it reads beside the
format's definition; those of `encode.py` and `encode_k.py` take float32 and return bytes. All
but e4m3fn, e5m2 and e8m0 are sums and products: they are rounded to float32 in the order in which
the formulas are written, which is that of the programs that define them.
"""
