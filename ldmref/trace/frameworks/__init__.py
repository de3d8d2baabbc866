"""Frameworks whose modules `ldmref.recording` records, a framework in each module.

| module      | what it is                                                                |
|-------------|---------------------------------------------------------------------------|
| `framework` | what a framework declares, and how it is found by the type of a module    |
| `recorder`  | the recorder of modules without hooks, and what they declare for it       |
| `torch`     | PyTorch, whose modules are seen by hooks (`ldmref.trace.torch_hooks`)     |
| `mlx`       | MLX                                                                       |
| `keras`     | Keras 3, on any of its backends                                           |
| `flax`      | Flax nnx                                                                  |
| `arrays`    | values of arrays as files of ldmref have them                             |

Another package adds a framework with an entry point of the group `ldmref.frameworks`, which names a
`Framework`; the name of the entry point is that of the package whose class its modules are.
"""
