"""Write tests/io/golden_ggml_blocks.npz: blocks that ggml's reference makes of weights.

    python scripts/make_ggml_golden.py PATH_OF_GGML

PATH_OF_GGML is a checkout of https://github.com/ggml-org/ggml. gcc compiles its ggml-quants.c,
without fused multiplications, which would round differently. The file holds the weights, their
blocks in each type, and the commit.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ldmref.io.quantized.ggml import GGML_TYPES, WRITABLE

GOLDEN = Path(__file__).resolve().parents[1] / "tests/io/golden_ggml_blocks.npz"
TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "MXFP4",
         "NVFP4")  # fmt: skip
# Blocks of random weights, (distribution, seed): rows. One grid more or less of a search, one pass
# more or less over the weights, or a tie decides there; found by changing the searches.
RARE = {
    ("normal", 1): [0, 1, 4, 6, 7, 116, 134, 194, 199, 394, 488, 570, 726, 1380],
    ("normal", 3): [503],
    ("cubed", 1): [2779],
    ("cubed", 3): [1068],
    ("sparse", 1): [0, 64, 181, 248, 1241, 1661],
}
# What ggml-quants.c links with and the functions used here do not call.
UNUSED = "void ggml_abort(void) {} long ggml_row_size(void) { return 0; } "
UNUSED += "const char *ggml_type_name(void) { return 0; } long ggml_type_size(void) { return 0; }"


def make_weights() -> np.ndarray:
    """Return weights of several distributions and scales, (n, 256) float32."""
    stream = np.random.default_rng(0)
    shape = (12, 256)
    scale = 10.0 ** stream.uniform(-4, 1, (12, 1))
    rows = [
        scale * stream.standard_normal(shape),
        scale * stream.standard_t(3, shape),
        scale * stream.random(shape),
        -scale * stream.random(shape),
    ]
    for (kind, seed), chosen in RARE.items():
        stream = np.random.default_rng(seed)
        x = stream.standard_normal((4000, 256))
        if kind == "cubed":
            x = x**3
        if kind == "sparse":
            x = np.where(stream.random(x.shape) < 0.2, x, 0.0)
        rows.append(x[chosen])
    return np.concatenate(rows).astype(np.float32)


def compile_reference(ggml: Path, folder: Path) -> ctypes.CDLL:
    """Compile ggml's functions as a shared library."""
    stub = folder / "unused.c"
    stub.write_text(UNUSED)
    library = folder / "ggml-quants.so"
    flags = ["-O1", "-ffp-contract=off", "-w", "-shared", "-fPIC", f"-I{ggml / 'include'}"]
    source = ggml / "src/ggml-quants.c"
    command = ["gcc", *flags, f"-I{ggml / 'src'}", source, stub, "-o", library, "-lm"]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def quantize(library: ctypes.CDLL, name: str, x: np.ndarray) -> np.ndarray:
    """Return the blocks of a type, (n, bytes)."""
    kind = GGML_TYPES[WRITABLE[name]]
    blocks = np.zeros((x.size // kind.values, kind.nbytes), np.uint8)
    function = getattr(library, f"quantize_row_{name.lower().replace('_k', '_K')}_ref")
    pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (x, blocks))
    function(*pointers, ctypes.c_int64(x.size))
    return blocks


def main() -> None:
    ggml = Path(sys.argv[1]).resolve()
    commit = subprocess.check_output(["git", "-C", ggml, "rev-parse", "HEAD"], text=True).strip()
    x = make_weights()
    with tempfile.TemporaryDirectory() as folder:
        library = compile_reference(ggml, Path(folder))
        blocks = {name: quantize(library, name, x) for name in TYPES}
    np.savez_compressed(GOLDEN, weights=x, commit=np.array(commit), **blocks)


if __name__ == "__main__":
    main()
