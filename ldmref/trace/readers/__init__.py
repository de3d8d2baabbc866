"""Read the intermediates that other programs wrote, without these programs and without PyTorch.

Kinds of files, recognised by their content: folders of `ldmref trace`, a safetensors file or a
folder of them, `.npz`, folders of `.npy`, files of `torch.save`, GGUF, and JSON of Polygraphy, of
raw numbers and of transformers' debugger.
"""

from ldmref.trace.readers.load import load_trace
from ldmref.trace.readers.names import read_names

__all__ = ["load_trace", "read_names"]
