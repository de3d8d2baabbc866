"""The capstone: its answers are right, its marks say so, and say when a line of them is wrong."""

from __future__ import annotations

import ast
import runpy
import shutil
import sys

import pytest
from course_pages import COURSE, ROOT

import ldmref.check
from ldmref.backends import get_backend
from ldmref.check.implementation import load_implementation
from ldmref.io.embedded import embedded_folder

PAGE = COURSE / "capstone.md"
ANSWERS = COURSE / "solutions" / "capstone"
PIECES = ("blocks", "autoencoder", "training", "sampling")
RUNNER = runpy.run_path(str(ROOT / "scripts" / "run_chapter.py"))
FORMULAS = {
    "blocks": "silu gelu group_norm layer_norm softmax scaled_dot_product_attention "
    "timestep_embedding upsample_nearest",
    "autoencoder": "reparameterize kl_standard_normal pad_bottom_right",
    "training": "q_sample training_pair training_loss",
    "sampling": "cosine_betas alphas_cumprod karras_sigmas x0_from_v classifier_free_guidance",
}
# A file, a line of it, what a student may write instead, and the mark that must find it.
MISTAKES = [
    ("blocks", "silu(emb))[:, :, None, None]", "emb)[:, :, None, None]", "residual block"),
    ("blocks", "value * gelu(gate)", "gate * gelu(value)", "attention block"),
    ("blocks", 'p["norm.bias"], groups, 1e-6)', 'p["norm.bias"], groups, 1e-2)', "attention block"),
    ("blocks", "[x, skips.pop()]", "[skips.pop(), x]", "U-Net"),
    ("blocks", "context[:, -1]", "context[:, 0]", "U-Net"),
    ("autoencoder", "np.clip(logvar, -30.0, 20.0)", "0.5 * logvar", "standard deviation"),
    ("autoencoder", "pad_bottom_right(x), stride=2, pad=0", "x, stride=2", "mean"),
    ("training", "gradient = 2.0 *", "gradient = -2.0 *", "training"),
    ("training", "np.sqrt(1.0 - a) * eps", "(1.0 - a) * eps", "training"),
    ("training", "rng.integers(len(alpha_bar), size=batch)", "np.zeros(batch, int)", "training"),
    ("sampling", "cond, uncond = x0_from_v", "uncond, cond = x0_from_v", "image"),
    ("sampling", "(x - x0)", "(x + x0)", "image"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a student's folder with the answers and the weights."""
    for piece in PIECES:
        shutil.copy(ANSWERS / f"{piece}.py", tmp_path)
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(embedded_folder("emoji") / name, tmp_path / "model")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    others = {name: sys.modules.pop(name) for name in PIECES if name in sys.modules}
    yield tmp_path
    for piece in PIECES:
        sys.modules.pop(piece, None)
    sys.modules.update(others)


def marks(folder, pieces, tmp_path_page):
    """Return what the page prints for the first pieces: "name: verdict"."""
    blocks = list(RUNNER["BLOCK"].finditer(PAGE.read_text("utf-8")))
    assert len(blocks) == 1 + len(PIECES)
    text = "".join(block[0] for block in blocks[: 1 + pieces])
    page = tmp_path_page / "page.md"
    page.write_text(text, "utf-8")
    lines = "".join(RUNNER["run"](page, folder)).splitlines()
    return dict(line.split(",")[0].split(": ") for line in lines)


def test_the_page_marks_the_answers_as_right(folder, tmp_path):
    found = marks(folder, len(PIECES), tmp_path)
    expected = ["residual block", "attention block", "U-Net", "mean", "standard deviation"]
    assert found == dict.fromkeys([*expected, "decoder", "training", "image"], "right")


@pytest.mark.parametrize("piece", PIECES)
def test_the_formulas_of_a_piece_hold(piece, folder):
    module = load_implementation(str(folder / f"{piece}.py"))
    backend = get_backend("numpy", dtype="float64")
    results = [*ldmref.check.run(backend, against=module, cases=20)]
    wrong = [f"{r.identity}: {r.detail}" for r in results if not r.holds]
    assert not wrong
    own = {node.name for node in ast.parse((ANSWERS / f"{piece}.py").read_text()).body
           if isinstance(node, ast.FunctionDef)}  # fmt: skip
    assert set(FORMULAS[piece].split()) <= own
    text = PAGE.read_text("utf-8")
    assert all(f"`{name}`" in text for name in FORMULAS[piece].split())
    checked = {result.identity.partition(":")[0] for result in results}
    assert set(FORMULAS[piece].split()) <= checked


@pytest.mark.parametrize(("piece", "line", "mistake", "mark"), MISTAKES)
def test_a_mark_finds_a_mistake(piece, line, mistake, mark, folder, tmp_path):
    file = folder / f"{piece}.py"
    text = file.read_text("utf-8")
    assert text.count(line) == 1
    file.write_text(text.replace(line, mistake), "utf-8")
    assert marks(folder, 1 + PIECES.index(piece), tmp_path)[mark] == "WRONG"


def test_the_answers_stand_alone():
    for piece in PIECES:
        tree = ast.parse((ANSWERS / f"{piece}.py").read_text("utf-8"))
        modules = {
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module] if isinstance(node, ast.ImportFrom) else
                         [alias.name for alias in node.names])
        }  # fmt: skip
        assert modules <= {"json", "math", "pathlib", "itertools", "numpy", *PIECES}
