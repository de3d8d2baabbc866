"""The CUDA kernels of the CuPy backend as text: as CuPy compiles them, and as C++.

`FastCupyBackend.declare_kernels` declares each once. `declare_kernels` here records the
declarations; `cuda_source` asks CuPy's own generator for the program that a launch would compile;
and `CppKernels` compiles the same bodies as C++, so that a processor computes what a GPU would.
"""

import ctypes
import shutil
import subprocess
import types
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from device_arrays import on_device, refuse_host_arrays

from ldmref.backends.fast.cupy import FastCupyBackend


class Kernel(NamedTuple):
    """The arguments of `cupy.ElementwiseKernel`, or of `cupy.ReductionKernel`."""

    name: str
    inputs: str
    outputs: str
    operation: str  # of a reduction: its terms
    preamble: str
    reduction: tuple[str, ...] = ()  # expression, last expression, identity, type of the sum

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """Return the inputs' types and names: [("T", "x"), ("float32", "mean")]."""
        return [tuple(declaration.split()) for declaration in self.inputs.split(", ")]


def declare_kernels() -> dict[str, Kernel]:
    """Return the kernels that the backend declares, by name, without CuPy."""
    kernels: dict[str, Kernel] = {}

    def elementwise(inputs, outputs, operation, name, preamble=""):
        kernels[name] = Kernel(name, inputs, outputs, operation, preamble)

    def reduction(inputs, outputs, term, reduce, post, identity, name, reduce_type, preamble=""):
        rest = (reduce, post, identity, reduce_type)
        kernels[name] = Kernel(name, inputs, outputs, term, preamble, rest)

    backend = FastCupyBackend.__new__(FastCupyBackend)  # without a device
    backend.lib = types.SimpleNamespace(ElementwiseKernel=elementwise, ReductionKernel=reduction)
    backend.declare_kernels()
    return kernels


NUMBERS = {"scale", "eps"}
"""The parameters that the backend passes as Python numbers."""


def cuda_source(kernel: Kernel, dtype: str) -> str:
    """Return the CUDA program that CuPy makes of a kernel at its first launch.

    CuPy has no public function for it: these are those that its launches call (versions 14).

    Args:
        kernel: From `declare_kernels`.
        dtype: Of the arrays of type T.
    """
    import cupy
    from cupy._core import _carray, _kernel, _reduction

    array, indexer, scalar = 1, 2, 3

    def describe(parameter: Any) -> Any:
        if parameter.name in ("_ind", "_in_ind", "_out_ind"):
            return _kernel._ArgInfo(indexer, _carray.Indexer, None, 4, True, True)
        if parameter.name in NUMBERS | {"_block_stride"}:
            return _kernel._ArgInfo(scalar, object, parameter.dtype, 0, True, True)
        return _kernel._ArgInfo(array, cupy.ndarray, parameter.dtype or T, 4, False, True)

    T = np.dtype(dtype)
    names = _kernel._TypeMap((("T", T),))
    if not kernel.reduction:
        made = cupy.ElementwiseKernel(
            kernel.inputs, kernel.outputs, kernel.operation, kernel.name, preamble=kernel.preamble
        )
        infos = tuple(map(describe, made.params))
        text = _kernel._get_elementwise_kernel_code(
            infos, names, made.params, made.operation, made.name, made.preamble
        )
    else:
        *expressions, reduce_type = kernel.reduction
        made = cupy.ReductionKernel(
            kernel.inputs, kernel.outputs, kernel.operation, *expressions, kernel.name, reduce_type
        )
        infos = tuple(map(describe, made._params))
        text = _reduction._ReductionKernel_get_cached_function_code(
            made.nin, made.nout, made._params, infos, names, made.name, 256, made.reduce_type,
            made.identity, made.map_expr, made.reduce_expr, made.post_map_expr, made.preamble,
            made.options,
        )  # fmt: skip
    return f"#include <cupy/carray.cuh>\ntypedef int IndexT;\n{text}"


# What a C++ compiler lacks of CUDA. CuPy's float16 converts to and from float, as `_Float16` does.
CPP_HEADER = """
#include <math.h>
#define __device__ static inline
#define rsqrtf(x) (1.0f / sqrtf(x))
typedef float float32;
"""
CPP_ELEMENTWISE = """
extern "C" void {name}_{dtype}(long n, const void* const* in, void* out) {{
  for (long i = 0; i < n; ++i) {{
    {arguments}
    T& y = static_cast<T*>(out)[i];
    {operation};
  }}
}}
"""
# The sum is a tree, like that of the threads of a block.
CPP_REDUCTION = """
static {sum} {name}_{dtype}_tree(long first, long last, const void* const* in) {{
  if (first == last) return {identity};
  if (last - first == 1) {{
    const long i = first;
    {arguments}
    return {operation};
  }}
  const long middle = first + (last - first) / 2;
  const {sum} a = {name}_{dtype}_tree(first, middle, in);
  const {sum} b = {name}_{dtype}_tree(middle, last, in);
  return {reduce};
}}
extern "C" void {name}_{dtype}(long rows, long length, const void* const* in, void* out) {{
  for (long row = 0; row < rows; ++row) {{
    const {sum} a = {name}_{dtype}_tree(row * length, (row + 1) * length, in);
    float32& y = static_cast<float32*>(out)[row];
    {post};
  }}
}}
"""


def cpp_source(kernels: dict[str, Kernel]) -> str:
    """Return a C++ program with a function per kernel and type, called NAME_DTYPE."""
    parts = [CPP_HEADER]
    for dtype, word in (("float32", "float"), ("float16", "_Float16")):
        parts.append(f"namespace in_{dtype} {{\ntypedef {word} T;")
        parts += dict.fromkeys(kernel.preamble for kernel in kernels.values())
        for kernel in kernels.values():
            arguments = " ".join(
                f"const {kind}& {name} = static_cast<const {kind}*>(in[{index}])[i];"
                for index, (kind, name) in enumerate(kernel.parameters)
            )
            words = {"name": kernel.name, "dtype": dtype, "arguments": arguments}
            words["operation"] = kernel.operation
            if kernel.reduction:
                keys = ("reduce", "post", "identity", "sum")
                words |= dict(zip(keys, kernel.reduction, strict=True))
                parts.append(CPP_REDUCTION.format(**words))
            else:
                parts.append(CPP_ELEMENTWISE.format(**words))
        parts.append("}")
    return "\n".join(parts)


def find_compiler() -> str | None:
    """Return the C++ compiler of this machine, or None."""
    return next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


class CppKernels:
    """The kernels compiled as C++, with the two classes that CuPy has for them."""

    def __init__(self, kernels: dict[str, Kernel], compiler: str, folder: Path) -> None:
        source = folder / "kernels.cpp"
        source.write_text(cpp_source(kernels))
        library = folder / "kernels.so"
        command = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", "-o", library, source]
        subprocess.run(command, check=True, capture_output=True, text=True)
        self.library = ctypes.CDLL(str(library))
        self.kernels = kernels
        self.calls: set[str] = set()
        self.numbers: set[str] = set()

    def elementwise_kernel(self, inputs, outputs, operation, name, preamble=""):
        """Stand in for `cupy.ElementwiseKernel`, on the stand-in's arrays."""
        self._check_declared(name, (inputs, outputs, operation, preamble))

        def launch(*args: Any) -> Any:
            refuse_host_arrays(args)
            return on_device(self.elementwise(name, *args))

        return launch

    def reduction_kernel(
        self, inputs, outputs, term, reduce, post, identity, name, reduce_type, preamble=""
    ):
        """Stand in for `cupy.ReductionKernel`, on the stand-in's arrays."""
        self._check_declared(name, (inputs, outputs, term, preamble))

        def launch(*args: Any, axis: Any, keepdims: bool) -> Any:
            refuse_host_arrays(args)
            return on_device(self.reduce(name, *args, axis=axis, keepdims=keepdims))

        return launch

    def _check_declared(self, name: str, words: tuple[str, ...]) -> None:
        """Check that the compiled kernel of that name is the declared one."""
        assert self.kernels[name][1:5] == words

    def elementwise(self, name: str, *args: Any) -> np.ndarray:
        """Return y = operation(args) for arrays and numbers that broadcast."""
        dtype, arrays = self._prepare(name, args)
        result = np.empty(arrays[0].shape, dtype)
        self._call(f"{name}_{dtype}", (result.size,), arrays, result)
        return result

    def reduce(self, name: str, *args: Any, axis: Any, keepdims: bool) -> np.ndarray:
        """Return the sum of the terms of args over axes, in float32."""
        dtype, arrays = self._prepare(name, args)
        axes = tuple(a % arrays[0].ndim for a in np.atleast_1d(axis))
        ends = range(-len(axes), 0)
        arrays = [np.ascontiguousarray(np.moveaxis(x, axes, ends)) for x in arrays]
        kept = arrays[0].shape[: arrays[0].ndim - len(axes)]
        result = np.empty(kept, np.float32)
        length = arrays[0].size // result.size
        self._call(f"{name}_{dtype}", (result.size, length), arrays, result)
        return np.expand_dims(result, axes) if keepdims else result

    def _prepare(self, name: str, args: Any) -> tuple[np.dtype, list[np.ndarray]]:
        """Return the type T, and the arguments as contiguous arrays of one shape."""
        parameters = self.kernels[name].parameters
        self.numbers |= {
            word for x, (_, word) in zip(args, parameters, strict=True) if isinstance(x, float)
        }
        kinds = [kind for kind, _ in parameters]
        given = [np.asarray(x).dtype for x, kind in zip(args, kinds, strict=True) if kind == "T"]
        assert len(set(given)) == 1, "CuPy infers one type T"
        arrays = [
            np.asarray(x, given[0] if kind == "T" else kind)
            for x, kind in zip(args, kinds, strict=True)
        ]
        return given[0], [np.ascontiguousarray(x) for x in np.broadcast_arrays(*arrays)]

    def _call(self, name: str, sizes: tuple[int, ...], arrays: Any, result: np.ndarray) -> None:
        self.calls.add(name)
        pointers = (ctypes.c_void_p * len(arrays))(*(x.ctypes.data for x in arrays))
        function = getattr(self.library, name)
        function(*map(ctypes.c_long, sizes), pointers, ctypes.c_void_p(result.ctypes.data))
