"""Rows of the fault table that a single bad argument does not show: what a result holds, what
state is left, threads, plug-ins."""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.metadata
import multiprocessing
import re
import shutil
import sys
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fault_cases import COMMAND_LINE, PYTHON, covers
from fault_images import image_file, mask, pixels
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.apps.cli import doctor
from ldmref.apps.cli.file_names import slugify
from ldmref.apps.cli.main import main
from ldmref.errors import (
    BackendUnavailable,
    Cancelled,
    CorruptModelError,
    LdmrefError,
    NumericError,
    OutputError,
)
from ldmref.io.images.pil import read_image

ROOT = Path(__file__).parents[2]


def drawn(model, **parameters):
    return modes.txt2img(model, "cat", steps=2, **{"seed": 0} | parameters)


def same(a, b):
    return np.array_equal(a.latents, b.latents) and a[0].tobytes() == b[0].tobytes()


# -- model files ----------------------------------------------------------------------------------


@covers(30, "four threads load one folder", PYTHON)
def test_loaded_by_many_at_once(tiny_folder):
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: ldmref.load(tiny_folder), range(8)))
    assert all(same(drawn(model), drawn(models[0])) for model in models[1:])


@covers(29, "a flipped byte of the embedded model", PYTHON, COMMAND_LINE, code="E-DIGEST")
def test_embedded_model_with_a_flipped_byte(tmp_path, monkeypatch):
    for name in ("emoji", "emoji-map"):
        folder = tmp_path / "assets" / name
        shutil.copytree(ROOT / "ldmref" / "assets" / name, folder)
    folder = tmp_path / "assets" / "emoji"
    monkeypatch.setattr("ldmref.io.embedded.files", lambda package: tmp_path)
    assert all(model.ok for model in doctor.check_embedded_models())
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-100, 2)
        byte = file.read(1)
        file.seek(-100, 2)
        file.write(bytes([byte[0] ^ 1]))
    assert [model.ok for model in doctor.check_embedded_models()] == [False, True]
    for name in ("emoji", "emoji-map"):  # the map has the text encoder of the other
        with pytest.raises(CorruptModelError) as caught:
            ldmref.load(name)
        assert caught.value.code == "E-DIGEST" and "'emoji'" in str(caught.value)


@covers(29, "the published digest is the file's, in code and documentation", PYTHON)
def test_published_digest():
    from ldmref.io.embedded import PUBLISHED

    for name, published in PUBLISHED.items():
        weights = ROOT / "ldmref" / "assets" / name / "model.safetensors"
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        assert published["model.safetensors"] == digest
        assert digest in (ROOT / "SECURITY.md").read_text("utf-8")


# -- numbers and arrays ---------------------------------------------------------------------------


@covers(58, "latents are never written to", PYTHON)
def test_latents_are_not_changed(tiny):
    latents = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    before = latents.copy()
    drawn(tiny, latents=latents)
    assert np.array_equal(latents, before)


@covers(59, "a callback that raises", PYTHON)
def test_callback_that_raises(tiny):
    expected = drawn(tiny)

    def fail(progress):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        drawn(tiny, callback=fail)
    assert same(drawn(tiny), expected)


@covers(59, "a callback that writes to what it is shown", PYTHON)
def test_callback_that_writes(tiny):
    def write(progress):
        for array in (progress.latents, progress.x0):
            array[...] = 0

    assert same(drawn(tiny, callback=write), drawn(tiny))


# -- images -------------------------------------------------------------------------------------


@covers(60, "16 bits are divided by 257 and rounded", PYTHON)
def test_sixteen_bits_are_scaled(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 256, 32768, 65535]], np.uint16)).save(path)
    assert np.asarray(read_image(path))[0, :, 0].tolist() == [0, 1, 128, 255]


@covers(62, "hidden colours do not leak", PYTHON)
def test_transparent_is_white(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(path)
    assert read_image(path).getpixel((0, 0)) == (255, 255, 255)


@covers(64, "eight orientations", PYTHON)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, orientation):
    upright = Image.fromarray(pixels(4, 8))
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = upright if stored is None else upright.transpose(stored)
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "a.png"
    image.save(path, exif=exif)
    assert read_image(path).tobytes() == upright.tobytes()


@covers(74, "an all black mask gives the image back", PYTHON)
def test_black_mask_returns_the_image(tiny, tmp_path):
    path = image_file()(tmp_path)
    result = modes.inpaint(tiny, "cat", path, mask((0, 0, 0, 0))(tmp_path), steps=1, seed=0)
    assert result[0].tobytes() == Image.open(path).convert("RGB").tobytes()


@covers(74, "an all white mask is img2img", PYTHON)
def test_white_mask_is_img2img(tiny, tmp_path):
    path = image_file()(tmp_path)
    options = {"steps": 4, "seed": 0, "strength": 0.5, "sampler": "euler"}
    painted = modes.inpaint(tiny, "cat", path, mask((0, 0, 16, 16))(tmp_path), **options)
    assert painted[0].tobytes() == modes.img2img(tiny, "cat", path, **options)[0].tobytes()


@covers(76, "black pixels come back bit for bit", PYTHON)
def test_unmasked_pixels(tiny, tmp_path):
    path = image_file()(tmp_path)
    result = modes.inpaint(tiny, "cat", path, mask((0, 0, 16, 8))(tmp_path), steps=1, seed=0)
    original = np.asarray(Image.open(path))
    painted = np.asarray(result[0])
    assert np.array_equal(painted[8:], original[8:])
    assert not np.array_equal(painted[:8], original[:8])


NAMES = ("../../x", "/etc/passwd", "CON", "-rf", "x" * 5000, "❤️", "..", "a\0b", "..\\x", "\n", "é")


@covers(79, "names are letters, digits and hyphens", COMMAND_LINE)
@pytest.mark.parametrize("prompt", NAMES)
def test_file_names(prompt):
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,79}", slugify(prompt))


# -- run time -------------------------------------------------------------------------------------


class Missing(importlib.abc.MetaPathFinder):
    """As if a package were not installed."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


@covers(80, "a library that is not installed", PYTHON, COMMAND_LINE, code="E-BACKEND")
def test_backend_that_is_not_installed(stage, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "cupy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing("cupy"), *sys.meta_path])
    with pytest.raises(BackendUnavailable) as caught:
        ldmref.random_model("tiny", backend="cupy")
    assert caught.value.hint
    assert main(["txt2img", "cat", "-m", str(stage.model_folder), "--backend", "cupy"]) == 5
    assert not list(stage.work.iterdir())


@covers(81, "NaN in a weight of the U-Net", PYTHON, code="E-NAN")
def test_nan_in_the_unet():
    model = ldmref.random_model("tiny", backend="numpy")
    weight = model.params.unet.mid_block.resnets["0"].conv1.weight
    np.asarray(weight)[...] = np.nan
    with pytest.raises(NumericError) as caught:
        drawn(model)
    assert caught.value.code == "E-NAN" and "mid_block.resnets.0" in str(caught.value)


@covers(81, "NaN in a weight of the decoder", PYTHON, code="E-NAN")
def test_nan_in_the_decoder():
    model = ldmref.random_model("tiny", backend="numpy")
    np.asarray(model.params.vae.decoder.conv_in.weight)[...] = np.nan
    with pytest.raises(NumericError) as caught:
        drawn(model)
    assert caught.value.code == "E-NAN"


@covers(82, "the process goes on after a MemoryError", PYTHON, COMMAND_LINE, code="E-MEMORY")
def test_out_of_memory(stage, monkeypatch):
    expected = drawn(stage.model)
    with monkeypatch.context() as patch:
        patch.setattr(type(stage.model), "predict", lambda *_, **__: np.empty(1 << 62, np.uint8))
        with pytest.raises(MemoryError):
            drawn(stage.model)
        assert main(["txt2img", "cat", "-m", str(stage.model_folder)]) == 6
    assert "error[E-MEMORY]" in stage.capfd.readouterr().err and not list(stage.work.iterdir())
    assert same(drawn(stage.model), expected)


@covers(83, "cancelled from Python: the finished images are kept", PYTHON, code="E-CANCELLED")
def test_cancelled(tiny):
    cancel = threading.Event()

    def stop(progress):
        if progress.first == 2:
            cancel.set()

    with pytest.raises(Cancelled) as caught:
        drawn(tiny, count=5, callback=stop, cancel=cancel)
    assert len(caught.value.partial.images) == 2
    assert caught.value.partial[1].tobytes() == drawn(tiny, seed=1)[0].tobytes()


@covers(86, "a file that exists", PYTHON, COMMAND_LINE, code="E-EXISTS")
def test_output_that_exists(stage):
    path = stage.work / "a.png"
    result = drawn(stage.model)
    result.save(path)
    before = path.read_bytes()
    with pytest.raises(OutputError) as caught:
        result.save(path)
    argv = ["txt2img", "cat", "-m", str(stage.model_folder), "--steps", "1", "-o", "a.png"]
    assert caught.value.code == "E-EXISTS" and main(argv) == 8
    assert path.read_bytes() == before and [*stage.work.iterdir()] == [path]
    assert main([*argv, "--overwrite"]) == 0 and path.read_bytes() != before


@covers(86, "the same name in a folder", COMMAND_LINE)
def test_numbered_names(stage):
    argv = ["txt2img", "cat", "-m", str(stage.model_folder), "--steps", "1", "--seed", "7"]
    assert [main(argv) for _ in range(3)] == [0, 0, 0]
    names = {path.name for path in stage.work.iterdir()}
    assert names == {"cat-7.png", "cat-7-2.png", "cat-7-3.png"}


@covers(88, "a folder that is missing", PYTHON, COMMAND_LINE, code="E-FOLDER")
def test_missing_folder(stage):
    with pytest.raises(OutputError) as caught:
        drawn(stage.model).save(stage.work / "gone" / "a.png")
    assert caught.value.code == "E-FOLDER"
    assert main(["txt2img", "cat", "-m", str(stage.model_folder), "-o", "gone/a.png"]) == 8
    assert not list(stage.work.iterdir())


@covers(90, "four threads give the serial images", PYTHON)
def test_threads_share_a_model(tiny):
    serial = [drawn(tiny, seed=seed, sampler="dpmpp_2m") for seed in range(16)]
    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(lambda s: drawn(tiny, seed=s, sampler="dpmpp_2m"), range(16)))
    assert all(same(a, b) for a, b in zip(parallel, serial, strict=True))


def _draw_in_child(folder, queue):
    queue.put(drawn(ldmref.load(folder)).latents)


@covers(91, "fork and spawn", PYTHON)
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore")
def test_other_processes(tiny_folder, method):
    expected = drawn(ldmref.load(tiny_folder)).latents
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_draw_in_child, args=(tiny_folder, queue))
    child.start()
    assert np.array_equal(queue.get(timeout=60), expected)
    child.join(60)
    assert child.exitcode == 0


@covers(94, "settings and environment variables", PYTHON, COMMAND_LINE, code="E-ENV")
@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("LDMREF_STEPS", "abc", "E-ENV"),
        ("LDMREF_STEP", "3", "E-ENV"),
        ("LDMREF_BACKEND", "nunpy", "E-BACKEND-NAME"),
        ("LDMREF_CONFIG", "gone", "E-CONFIG-FILE"),
        ("LDMREF_DTYPE", "float31", "E-DTYPE"),
    ],
)
def test_environment_variables(stage, monkeypatch, name, value, code):
    monkeypatch.setenv(name, value)
    with pytest.raises(LdmrefError) as caught:
        ldmref.load(stage.model_folder)
    assert caught.value.code == code
    argv = ["txt2img", "cat", "-m", str(stage.model_folder)]
    assert main(argv) == caught.value.exit_code
    assert f"error[{code}]" in stage.capfd.readouterr().err and not list(stage.work.iterdir())


SETTINGS = {
    "typo": "[defaults]\nstpes = 3\n",
    "type": "[defaults]\nsteps = 'many'\n",
    "table": "[default]\nsteps = 3\n",
    "no TOML": "[defaults\n",
    "twice": "[defaults]\nsteps = 3\nsteps = 4\n",
    "deep": "a = " + "[" * 5000,
}


@covers(94, "a settings file", PYTHON, COMMAND_LINE, code="E-CONFIG-KEY")
@pytest.mark.parametrize("title", SETTINGS)
def test_settings_file(stage, title):
    path = stage.work / "ldmref.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SETTINGS[title].encode())
    with pytest.raises(LdmrefError) as caught:
        ldmref.load(stage.model_folder)
    assert caught.value.code in ("E-CONFIG-KEY", "E-CONFIG-FILE")
    argv = ["txt2img", "cat", "-m", str(stage.model_folder)]
    assert main(argv) == caught.value.exit_code and [*stage.work.iterdir()] == [path]


@covers(96, "lower bounds are the same everywhere", COMMAND_LINE)
def test_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = dict(requirement.split(">=") for requirement in project["dependencies"])
    assert bounds == doctor.MINIMUM


# -- plug-ins and supply chain --------------------------------------------------------------------


@pytest.fixture
def plug_ins(monkeypatch):
    """Entry points, as if packages with them were installed."""
    real = importlib.metadata.entry_points
    points = []

    def entry_points(**select):
        mine = [p for p in points if all(getattr(p, k) == v for k, v in select.items())]
        return importlib.metadata.EntryPoints([*real(**select), *mine])

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)

    def install(group, name, value):
        points.append(importlib.metadata.EntryPoint(name, value, group))

    return install


@covers(111, "a backend and a sampler that cannot be imported", PYTHON, code="E-PLUGIN")
@pytest.mark.parametrize("group", ["ldmref.backends", "ldmref.samplers"])
def test_broken_plug_in(tiny, plug_ins, group):
    plug_ins(group, "broken", "no_such_package:Thing")
    drawn(ldmref.random_model("tiny", backend="numpy"), sampler="euler")
    with pytest.raises(LdmrefError) as caught:
        if group == "ldmref.backends":
            ldmref.random_model("tiny", backend="broken")
        else:
            drawn(tiny, sampler="broken")
    assert "no_such_package" in str(caught.value)


@covers(112, "a backend and a sampler with a built-in name, which keeps it", PYTHON)
@pytest.mark.parametrize(
    ("group", "name"), [("ldmref.backends", "torch"), ("ldmref.samplers", "heun")]
)
def test_plug_in_that_takes_a_name(tiny, plug_ins, group, name):
    plug_ins(group, name, "no_such_package:Thing")
    if group == "ldmref.backends":
        assert ldmref.random_model("tiny", backend=name).backend.name == name
    else:
        drawn(tiny, sampler=name)


@covers(114, "the code loads no data set by name", PYTHON)
def test_no_load_dataset():
    for path in (ROOT / "ldmref").rglob("*.py"):
        text = path.read_text()
        if "load_dataset(" in text:  # our own, which reads the images of a recipe
            assert "def load_dataset(" in text or "from ldmref.datasets" in text, path
        assert "import datasets" not in text and "from datasets" not in text, path


@covers(115, "Ray is an extra, from a version without the known faults on", PYTHON)
def test_ray_is_an_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    assert not [line for line in project["dependencies"] if line.startswith("ray")]
    [required] = [line for line in extras if line.startswith("ray")]
    oldest = required.partition(">=")[2].split(".")
    assert (int(oldest[0]), int(oldest[1])) >= (2, 52)  # CVE-2025-62593
