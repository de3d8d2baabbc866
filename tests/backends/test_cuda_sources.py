"""The CUDA kernels: compiled for GPUs without one, and run on the processor as C++."""

import math
import re
from pathlib import Path

import cuda_kernels
import numpy as np
import pytest
from cuda_kernels import CppKernels, cuda_source, declare_kernels, find_compiler

import ldmref
from ldmref.backends.fast.cupy import FastCupyBackend
from ldmref.backends.numpy import NumpyBackend

DTYPES = ("float32", "float16")
ARCHITECTURES = ("sm_75", "sm_120")  # Turing and Blackwell: the ends of what CUDA 12.9 compiles for
NAMES = "silu gelu quick_gelu normalize_identity normalize_silu geglu exp divide sum variance"
KERNELS = {f"ldmref_{name}" for name in NAMES.split()}


def test_every_cuda_source_of_the_project_is_among_the_kernels():
    """A kernel in another file, or of another class of CuPy, must be compiled here too."""
    words = (
        r"ElementwiseKernel|ReductionKernel|RawKernel|RawModule|__device__|__global__|cupyx\.jit"
    )
    files = Path(ldmref.__file__).parent.rglob("*.py")
    found = {file.name: re.findall(words, file.read_text("utf-8")) for file in files}
    assert {name for name, there in found.items() if there} == {"cupy.py"}
    assert set(found["cupy.py"]) <= {"__device__", "ElementwiseKernel", "ReductionKernel"}
    assert set(declare_kernels()) == KERNELS


@pytest.fixture
def compile_cuda(skip):
    """A function that compiles a CUDA program with NVIDIA's compiler, which needs no GPU."""
    try:
        import cupy
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
        import nvidia.cuda_runtime as runtime  # pyright: ignore[reportMissingImports]
    except Exception as error:
        skip("cupy", f"CUDA's compiler or its headers are not here ({error})")
    folders = [Path(cupy.__file__).parent / "_core" / "include"]
    folders += [Path(folder) / "include" for folder in runtime.__path__]

    def compile_program(source: str, architecture: str) -> bytes:
        options = (f"--gpu-architecture={architecture}", "--std=c++17")
        program = nvrtc.createProgram(source, "kernel.cu", (), ())
        try:
            nvrtc.compileProgram(program, (*options, *(f"-I{folder}" for folder in folders)))
            return nvrtc.getCUBIN(program)
        except nvrtc.NVRTCError:
            pytest.fail(nvrtc.getProgramLog(program))

    return compile_program


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_with_nvidias_compiler(compile_cuda, architecture, dtype):
    """The machine code of each, from the program that CuPy would make at the first launch."""
    for name, kernel in declare_kernels().items():
        code = compile_cuda(cuda_source(kernel, dtype), architecture)
        assert code[:4] == b"\x7fELF" and name.encode() in code


@pytest.fixture(scope="session")
def compiled(tmp_path_factory, skip):
    """The kernels as C++, compiled once."""
    compiler = find_compiler()
    if compiler is None:
        skip("cupy", "no C++ compiler (c++, g++ or clang++) for the bodies of the kernels")
    return CppKernels(declare_kernels(), compiler, tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def compiled_cupy(fake_cupy, compiled):
    """CuPy's stand-in, whose kernels are the compiled ones."""
    fake_cupy.ElementwiseKernel = compiled.elementwise_kernel
    fake_cupy.ReductionKernel = compiled.reduction_kernel
    return fake_cupy


OPERATIONS = {  # with the shapes of their arrays
    "silu": (lambda ops, x: ops.silu(x), (2, 5, 4, 3)),
    "gelu": (lambda ops, x: ops.gelu(x), (2, 5, 4, 3)),
    "quick_gelu": (lambda ops, x: ops.quick_gelu(x), (2, 7, 12)),
    "geglu": (lambda ops, x, w, b: ops.geglu(x, w, b), (2, 7, 12), (10, 12), (10,)),
    "layer_norm": (lambda ops, x, w, b: ops.layer_norm(x, w, b, 1e-5), (2, 7, 12), (12,), (12,)),
    "group_norm": (
        lambda ops, x, w, b: ops.group_norm(x, w, b, 4, 1e-6), (2, 8, 3, 5), (8,), (8,)),
    "group_norm_silu": (
        lambda ops, x, w, b: ops.group_norm_silu(x, w, b, 2, 1e-5), (2, 8, 3, 5), (8,), (8,)),
    "attention": (
        lambda ops, q, k, v: ops.attention(q, k, v),
        (2, 3, 7, 4), (2, 3, 5, 4), (2, 3, 5, 4)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_STAND_IN_not_a_gpu_operations_equal_the_reference_with_compiled_kernels(
    compiled_cupy, compiled, dtype
):
    """Each operation that uses a kernel against the NumPy reference, with the kernels' own code."""
    compiled.calls.clear()
    ops = FastCupyBackend(dtype=dtype)
    reference = NumpyBackend(dtype="float64")
    rng = np.random.default_rng(0)
    for name, (operation, *shapes) in OPERATIONS.items():
        arrays = [rng.normal(0.3, 1.5, shape).astype(dtype) for shape in shapes]
        want = operation(reference, *(x.astype(np.float64) for x in arrays))
        got = ops.to_numpy(operation(ops, *map(ops.asarray, arrays)))
        error = np.abs(got - want).max() / np.abs(want).max()
        assert got.dtype == dtype and error < {"float32": 2e-6, "float16": 2e-3}[dtype], name
    assert {call.removesuffix(f"_{dtype}") for call in compiled.calls} >= KERNELS
    assert compiled.numbers == cuda_kernels.NUMBERS


EDGES = (0.0, -0.0, 1e-3, -1e-3, 3.0, -3.0, 20.0, -20.0, 88.0, -88.0, 60000.0, -60000.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_bodies_equal_the_reference_where_exponentials_end(compiled, dtype):
    """Values at which expf is 0 or infinite: nothing but the reference's values, and no NaN."""
    reference = NumpyBackend(dtype="float64")
    x = np.concatenate([EDGES, np.linspace(-30.0, 30.0, 501)]).astype(dtype)
    bound = {"float32": 4e-6, "float16": 2e-3}[dtype]
    for name in ("silu", "gelu", "quick_gelu"):
        want = getattr(reference, name)(x.astype(np.float64))
        got = compiled.elementwise(f"ldmref_{name}", x)
        np.testing.assert_allclose(got, want, rtol=bound, atol=bound, err_msg=name)
    scores = x.astype(np.float64)
    want = np.exp(scores - scores.max())
    got = compiled.elementwise("ldmref_exp", x, np.full_like(x, x.max()))
    np.testing.assert_allclose(got, want, rtol=bound, atol=bound)


def test_kernel_bodies_sum_in_float32(compiled):
    """100,000 float16 numbers whose sum float16 cannot hold, and their variance."""
    x = np.random.default_rng(0).normal(3.0, 0.5, (4, 25_000)).astype(np.float16)
    wide = x.astype(np.float64)
    total = compiled.reduce("ldmref_sum", x, 1.0, axis=(1,), keepdims=True)
    assert total.dtype == np.float32 and total.shape == (4, 1)
    np.testing.assert_allclose(total, wide.sum(1, keepdims=True), rtol=1e-6)
    mean = compiled.reduce("ldmref_sum", x, 1.0 / x.size, axis=(0, 1), keepdims=True)
    variance = compiled.reduce("ldmref_variance", x, mean, 1.0 / x.size, axis=(0, 1), keepdims=True)
    np.testing.assert_allclose(variance, wide.var(keepdims=True), rtol=1e-5)
    y = compiled.elementwise("ldmref_normalize_silu", x, mean, variance, np.ones_like(x), x, 1e-5)
    z = (wide - wide.mean()) / math.sqrt(wide.var() + 1e-5) + wide
    np.testing.assert_allclose(y, z / (1.0 + np.exp(-z)), rtol=2e-3, atol=2e-3)
