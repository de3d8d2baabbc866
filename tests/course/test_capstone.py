"""The capstone: its answers are right, in NumPy and PyTorch, and mistakes in them are named."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shutil
import sys
from types import ModuleType

import pytest
from capstone_mistakes import MISTAKES, MISTAKES_IN_TORCH
from course_pages import COURSE, ROOT

import ldmref.check
from ldmref.apps.cli.main import main
from ldmref.check.capstone import piece_names
from ldmref.io.embedded import embedded_folder

PAGE = COURSE / "capstone.md"
ANSWERS = COURSE / "solutions" / "capstone"
PIECES = ("blocks", "autoencoder", "training", "sampling")
RUNNER = runpy.run_path(str(ROOT / "scripts" / "run_chapter.py"))
FUNCTIONS = {
    "blocks": "read_weights residual_block attention_block unet",
    "autoencoder": "encode decode",
    "training": "train",
    "sampling": "generate",
}
FORMULAS = {
    "blocks": "silu gelu group_norm layer_norm softmax scaled_dot_product_attention "
    "timestep_embedding upsample_nearest",
    "autoencoder": "reparameterize kl_standard_normal pad_bottom_right",
    "training": "q_sample training_pair training_loss",
    "sampling": "cosine_betas alphas_cumprod karras_sigmas x0_from_v classifier_free_guidance",
}
ANSWERS_IN_TORCH = COURSE / "solutions" / "capstone-torch"


@pytest.fixture
def own_modules():
    """Forget the modules that a student's file imports, before and after."""
    others = {name: sys.modules.pop(name) for name in PIECES if name in sys.modules}
    yield
    for piece in PIECES:
        sys.modules.pop(piece, None)
    sys.modules.update(others)


@pytest.fixture
def student(tmp_path, monkeypatch, own_modules):
    """Return a function that makes a student's folder, with the answers and the weights."""

    def enter(answers):
        for piece in PIECES:
            shutil.copy(answers / f"{piece}.py", tmp_path)
        (tmp_path / "model").mkdir()
        for name in ("config.json", "model.safetensors"):
            shutil.copy(embedded_folder("emoji") / name, tmp_path / "model")
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return enter


@pytest.fixture
def mark(capsys):
    """Return a function that runs `ldmref check --against`: (exit code, output, messages)."""

    def run(*words):
        capsys.readouterr()
        code = main(["check", "--against", *words])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(("library", "answers"), [("numpy", ANSWERS), ("torch", ANSWERS_IN_TORCH)])
def test_the_page_makes_the_image_with_the_answers(library, answers, student):
    folder = student(answers)
    text = PAGE.read_text("utf-8")
    assert 'LIBRARY = "numpy"' in text
    page = folder / "page.md"
    page.write_text(text.replace('LIBRARY = "numpy"', f'LIBRARY = "{library}"'), "utf-8")
    outputs = RUNNER["run"](page, folder)
    shown = [block["output"] or "" for block in RUNNER["BLOCK"].finditer(text)]
    hide = RUNNER["hide_numbers"]
    assert [*map(hide, outputs)] == [*map(hide, shown)]
    for piece in PIECES:
        (line,) = re.findall(rf"^{piece}.py: .*$", "".join(outputs), re.MULTILINE)
        right, count = re.findall(r"\d+", line)
        assert right == count and (library != "numpy" or line in text)  # torch has gradients
    assert outputs[-1].startswith("image: right")


@pytest.mark.parametrize("piece", PIECES)
def test_each_piece_is_marked_as_right(piece, student, mark):
    student(ANSWERS)
    code, out, notes = mark(f"{piece}.py", "--cases", "20")
    assert code == 0, out
    for name in (*FORMULAS[piece].split(), *FUNCTIONS[piece].split()):
        assert re.search(rf"^{name} ", out, re.MULTILINE), name
    assert not any(name in notes for name in FUNCTIONS[piece].split())


@pytest.mark.parametrize("piece", PIECES)
def test_the_answers_in_pytorch_are_right(piece, student, mark):
    student(ANSWERS_IN_TORCH)
    code, out, _ = mark(f"{piece}.py", "--cases", "20", "--backend", "torch")
    assert code == 0, out
    for name in (*FORMULAS[piece].split(), *FUNCTIONS[piece].split()):
        assert re.search(rf"^{name} ", out, re.MULTILINE), name


def help_for(file, line, mistake, function, mark, *flags):
    """Return the hint that a file with a mistake gets."""
    text = file.read_text("utf-8")
    assert text.count(line) == 1
    file.write_text(text.replace(line, mistake), "utf-8")
    code, out, _ = mark(file.name, "--only", f"{function}: ", *flags)
    assert code == 4
    (hint,) = {text for text in re.findall(r"^ +hint: (.*)$", out, re.MULTILINE)}
    assert re.search(rf"^ +{function}\(", out, re.MULTILINE), "no call is shown"
    return hint


@pytest.mark.parametrize(("piece", "line", "mistake", "function", "words"), MISTAKES)
def test_the_help_names_a_mistake(piece, line, mistake, function, words, student, mark):
    file = student(ANSWERS) / f"{piece}.py"
    assert words in help_for(file, line, mistake, function, mark)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
@pytest.mark.parametrize(("piece", "line", "mistake", "function", "words"), MISTAKES_IN_TORCH)
def test_the_help_names_a_mistake_in_pytorch(piece, line, mistake, function, words, student, mark):
    file = student(ANSWERS_IN_TORCH) / f"{piece}.py"
    assert words in help_for(file, line, mistake, function, mark, "--backend", "torch")


def test_each_piece_has_mistakes():
    assert {row[3] for row in MISTAKES} == {*ldmref.check.PIECES}


def test_a_piece_is_marked_alone_whatever_its_arguments_are_called(student, mark):
    file = student(ANSWERS) / "blocks.py"
    text = file.read_text("utf-8")
    other = "def residual_block(w, x, temb, groups, eps):\n    p, emb = w, temb\n"
    text = text.replace("def residual_block(p, x, emb, groups, eps):\n", other)
    file.write_text(text, "utf-8")
    code, out, notes = mark("blocks.py", "--cases", "2")
    assert code == 0 and "\nresidual_block" not in out
    assert "residual_block is not marked" in notes and "(p, x, emb, groups, eps)" in notes
    code, out, notes = mark("blocks.py:residual_block")
    assert code == 0 and out.splitlines()[0].startswith("residual_block")
    assert "all 2 checks hold" in out and not notes
    code, _, notes = mark("blocks.py:decode")
    assert code != 0 and "'blocks.py' has no function 'decode'" in notes


def test_weights_that_nobody_reads_are_asked_for(student, mark):
    folder = student(ANSWERS)
    (folder / "alone.py").write_text("def decode(p, config, z):\n    return z\n", "utf-8")
    code, out, _ = mark("alone.py")
    assert code == 4 and "read_weights, of piece 1, is neither here nor in an imported file" in out


def test_tensors_are_asked_for_if_a_file_wants_them(student, mark):
    student(ANSWERS_IN_TORCH)
    code, _, notes = mark("blocks.py:residual_block")
    assert code == 4 and "if yours want tensors, add --backend torch" in notes
    code, _, notes = mark("blocks.py:residual_block", "--backend", "torch")
    assert code == 0 and "tensors" not in notes


def test_functions_of_other_people_are_not_pieces():
    module = ModuleType("theirs")
    exec("def encode(model, images): ...\ndef train(model, data, steps): ...", vars(module))
    assert not piece_names(module) and not ldmref.check.nearly_pieces(module)


@pytest.mark.parametrize("answers", [ANSWERS, ANSWERS_IN_TORCH], ids=["numpy", "torch"])
def test_the_answers_stand_alone(answers):
    library = {"numpy"} if answers == ANSWERS else {"torch", "torch.nn.functional"}
    for piece in PIECES:
        text = (answers / f"{piece}.py").read_text("utf-8")
        modules = {
            name
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in (
                [node.module]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
        }
        assert modules <= {"json", "math", "pathlib", "itertools", *library, *PIECES}
        assert f"solutions/{answers.name}/{piece}.py" in PAGE.read_text("utf-8")
        page = PAGE.read_text("utf-8")
        assert all(
            f"`{name}`" in page or f"`{name}(" in page
            for name in (*FORMULAS[piece].split(), *FUNCTIONS[piece].split())
        )


def test_the_report_on_the_page_is_what_is_printed(student, mark):
    (row,) = [row for row in MISTAKES if "gelu(values)" in row[4]]
    file = student(ANSWERS) / "blocks.py"
    file.write_text(file.read_text("utf-8").replace(row[1], row[2]), "utf-8")
    _, out, _ = mark("blocks.py:attention_block")
    text = PAGE.read_text("utf-8")
    assert RUNNER["hide_numbers"](out) in RUNNER["hide_numbers"](text)


def test_results_that_are_no_arrays_are_one_line(student, mark):
    folder = student(ANSWERS)
    code = "from blocks import read_weights\n\n\ndef decode(p, config, z):\n    return {}\n\n\n"
    code += 'def encode(p, config, image):\n    return ["mean", "logvar", 3]\n'
    (folder / "own.py").write_text(code.format("None"), "utf-8")
    code, out, notes = mark("own.py", "--save", str(folder / "case.npz"))
    assert code == 4 and not (folder / "case.npz").exists()
    assert "3 results instead of 2: mean, logvar" in out and "shape () instead of" in out
    assert "encode is a piece, without cases" in notes


def test_a_run_is_one_json_object_for_each_mark(student, mark):
    student(ANSWERS)
    code, out, _ = mark("autoencoder.py", "--json", "--only", "code: ")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["function"] for row in rows] == ["encode", "encode", "decode"]
    assert all(row["verdict"] == "ok" and row["worst"] < row["allowed"] for row in rows)
