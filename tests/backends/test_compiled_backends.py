"""The backends `onnx` and `openvino`: images as NumPy's, graphs per shape, the cache on disk."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.backends.graph import compiled, disk_cache
from ldmref.backends.graph.compiled import find_open_axes
from ldmref.errors import BackendUnavailable, UsageError
from ldmref.models.control import ControlNet
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.params import Params, init
from ldmref.models.presets import preset

NAMES = ("onnx", "openvino")
LIBRARIES = {"onnx": "onnxruntime", "openvino": "openvino"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ldmref" / "graphs"


def open_backend(name, **options):
    pytest.importorskip("onnx")
    pytest.importorskip(LIBRARIES[name])
    return get_backend(name, **options)


@pytest.fixture(scope="module")
def emoji():
    return {name: ldmref.load(backend=name) for name in ("numpy",)}


def on(emoji, name):
    if name not in emoji:
        open_backend(name)
        emoji[name] = ldmref.load(backend=name)
    return emoji[name]


def assert_same_image(got, want, most=1):
    difference = np.abs(np.asarray(got[0], int) - np.asarray(want[0], int))
    assert difference.max() <= most, difference.max()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sampler", ["ddim", "euler_a", "dpmpp_2m", "heun", "lms"])
def test_images_are_numpy_s(emoji, name, sampler):
    request = {"prompt": "a red cat", "sampler": sampler, "seed": 3, "steps": 6}
    want = modes.txt2img(emoji["numpy"], **request)
    assert_same_image(modes.txt2img(on(emoji, name), **request), want)


@pytest.mark.parametrize("name", NAMES)
def test_other_modes(emoji, name):
    """From an image, with a mask, and with a decoder that works in tiles."""
    image = modes.txt2img(emoji["numpy"], "a cat", seed=1, steps=4)[0]
    mask = np.zeros((128, 128))
    mask[40:100, 30:90] = 1.0
    for request in (
        lambda m: modes.img2img(m, "a dog", image, strength=0.6, seed=2, steps=6),
        lambda m: modes.inpaint(m, "a dog", image, mask, seed=2, steps=6),
        lambda m: modes.txt2img(m, "a dog", tile=64, seed=2, steps=4),
        lambda m: modes.txt2img(m, "a dog", width=64, height=96, count=2, seed=2, steps=4),
    ):
        assert_same_image(request(on(emoji, name)), request(emoji["numpy"]))


@pytest.mark.parametrize("name", NAMES)
def test_controlnet(name):
    config = ControlNetConfig(preset("tiny").unet, conditioning_embedding_out_channels=(8, 16))
    params = init(controlnet_spec(config), seed=1)
    hint = np.random.default_rng(0).random((16, 16, 3))
    images = []
    for ops in (open_backend(name), get_backend("numpy")):
        model = ldmref.random_model("tiny", backend=ops)
        net = ControlNet(ops, config, params)
        images.append(
            modes.txt2img(model, "a cat", control=[modes.Control(net, hint)], seed=1, steps=3)
        )
    assert_same_image(*images)


@pytest.mark.parametrize("name", NAMES)
def test_weights_stay_in_their_file(emoji, name):
    """The parameters are views of what was read, in its type, before and after an image."""
    model = on(emoji, name)
    before = model.params.unet.conv_in.weight
    modes.txt2img(model, "a cat", seed=1, steps=1)
    assert model.params.unet.conv_in.weight is before
    assert before.dtype == np.float16 and before.base is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_model_on_a_compiled_backend_can_be_pickled(name):
    model = ldmref.random_model("tiny", backend=open_backend(name))
    want = modes.txt2img(model, "a cat", seed=1, steps=2)
    again = pickle.loads(pickle.dumps(model))
    assert repr(again.backend) == f"<{name} backend, cpu, float32>"
    assert_same_image(modes.txt2img(again, "a cat", seed=1, steps=2), want, most=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_with_nan_is_still_named(name):
    """The operations are repeated one by one on NumPy."""
    model = ldmref.random_model("tiny", backend=open_backend(name))
    params = model.params.unet
    params.conv_in["bias"] = np.full_like(params.conv_in.bias, np.nan)
    with pytest.raises(ldmref.errors.LdmrefError, match="conv_in"):
        modes.txt2img(model, "a cat", seed=1, steps=2)


@pytest.mark.parametrize("name", NAMES)
def test_threads_run_one_network_together(name):
    ops = open_backend(name)
    call = ops.compile(multiply, Params(weight=np.eye(4, dtype=np.float32)))
    results = {}

    def work(i):
        results[i] = [call(np.full((2 + i % 3, 4), i, np.float32)) for _ in range(20)]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i in range(6):
        assert all((y == i).all() and y.shape == (2 + i % 3, 4) for y in results[i])


def multiply(ops, p, x):
    return ops.linear(x, p.weight)


# -- graphs per shape -----------------------------------------------------------------------------


def count_builds(ops, monkeypatch):
    built = []
    build = ops.build

    def counted(graph):
        built.append(graph)
        return build(graph)

    monkeypatch.setattr(ops, "build", counted)
    return built


def test_openvino_fixes_the_first_sizes_and_leaves_further_ones_open(monkeypatch):
    ops = open_backend("openvino")
    built = count_builds(ops, monkeypatch)
    call = ops.compile(multiply, Params(weight=np.ones((3, 4), np.float32)))
    for n in (1, 2, 1, 3, 4, 2, 5, 1):
        y = call(np.ones((n, 4), np.float32))
        assert y.tolist() == [[4.0] * 3] * n
    assert [len(graph.labels) for graph in built] == [0, 0, 1]


@pytest.mark.parametrize("name", NAMES)
def test_large_networks_have_one_graph_of_open_sizes(name, monkeypatch):
    monkeypatch.setattr(compiled, "LARGE", 0)
    ops = open_backend(name)
    built = count_builds(ops, monkeypatch)
    call = ops.compile(multiply, Params(weight=np.ones((3, 4), np.float32)))
    for n in (1, 2, 3):
        call(np.ones((n, 4), np.float32))
    assert len(built) == 1


def test_few_graphs_are_kept(monkeypatch):
    ops = open_backend("onnx")
    built = count_builds(ops, monkeypatch)

    def power(ops, p, x, exponent):
        return x**exponent

    call = ops.compile(power, Params())
    x = np.full((2, 2), 2.0, np.float32)
    for exponent in (1, 2, 3, 4, 5, 5, 2):
        assert (call(x, exponent) == 2.0**exponent).all()
    assert len(built) == 5 and len(call._executables) == compiled.KEPT
    call(x, 1)
    assert len(built) == 6  # it was used least recently


def test_axes_that_stay_open():
    assert find_open_axes([(2, 4, 8, 9), (2,), (2, 7, 32), (2, 6)]) == [
        {0: "batch", 2: "height0", 3: "width0"},
        {0: "batch"},
        {0: "batch", 1: "length2"},
        {0: "batch"},
    ]
    assert find_open_axes([(2, 4, 8, 8), (1,)]) == [{}, {}]
    assert find_open_axes([(), ()]) == [{}, {}] and find_open_axes([]) == []


@pytest.mark.parametrize("name", NAMES)
def test_one_timestep_for_a_batch(name):
    """A batch of 1 broadcasts to a batch of 2, in a graph of fixed sizes."""
    ops = open_backend(name)
    model, plain = (ldmref.random_model("tiny", backend=b) for b in (ops, "numpy"))
    x = np.random.default_rng(0).standard_normal((2, 4, 8, 8))
    states = np.ones((2, 7, 32), np.float32)
    args = (x, np.asarray([7]), states)
    np.testing.assert_allclose(
        model.unet(*args), plain.unet(x.astype(np.float32), *args[1:]), rtol=0, atol=1e-5
    )


# -- speeds and errors ----------------------------------------------------------------------------


def test_bfloat16_where_the_processor_has_it(monkeypatch):
    from ldmref.backends import openvino as module

    ops = open_backend("openvino")
    monkeypatch.setattr(module, "supports_bfloat16", lambda core: False)
    with pytest.raises(UsageError, match="bfloat16") as caught:
        get_backend("openvino", speed="fastest")
    assert caught.value.code == "E-SPEED" and "'fast'" in caught.value.hint
    monkeypatch.undo()
    if not module.supports_bfloat16(ops._core):
        pytest.skip("this processor has no bfloat16 products")
    fastest = get_backend("openvino", speed="fastest")
    assert fastest.weight_bytes((8, 8), 1) == ops.weight_bytes((8, 8), 1) // 2
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 64), np.float32)
    x = rng.standard_normal((32, 64), np.float32)
    y = fastest.compile(multiply, Params(weight=weight))(x)
    error = np.abs(y - x @ weight.T).max() / np.abs(y).max()
    assert 1e-4 < error < 2e-2 and y.dtype == np.float32


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"device": "cuda"}, "E-DEVICE"),
        ({"dtype": "bfloat16"}, "E-DTYPE"),
        ({"speed": "exact"}, "E-SPEED"),
    ],
)
def test_what_they_do_not_have(name, options, code):
    open_backend(name)
    with pytest.raises((UsageError, BackendUnavailable)) as caught:
        get_backend(name, **options)
    assert caught.value.code == code and name in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("missing", ["onnx", "the library"])
def test_without_the_library(name, missing):
    blocked = LIBRARIES[name] if missing != "onnx" else "onnx"
    code = f"""
        import sys
        sys.modules[{blocked!r}] = None
        from ldmref.backends import available, get_backend
        from ldmref.errors import BackendUnavailable
        try:
            get_backend({name!r})
        except BackendUnavailable as error:
            print(error.code, "|", error, "|", error.hint)
        print(available()[{name!r}])"""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    first, second = done.stdout.strip().split("\n")
    assert first.startswith("E-BACKEND") and "not installed" in first
    assert f"pip install 'ldmref[{name}]'" in first and "not installed" in second


def test_they_are_imported_only_when_named():
    code = """
        import sys, ldmref, ldmref.modes, ldmref.backends
        ldmref.random_model("tiny", backend="numpy")
        print([m for m in ("onnx", "onnxruntime", "openvino") if m in sys.modules])"""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_openvino_is_imported_without_its_usage_statistics(tmp_path):
    """They would be sent by a process that, on some systems, runs this script again."""
    open_backend("openvino")
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, sys\n"
        "multiprocessing.set_start_method('spawn', force=True)\n"
        "from ldmref.backends import get_backend\n"
        "get_backend('openvino')\n"
        "print('ran', 'openvino' in sys.modules, 'openvino_telemetry' in sys.modules)\n"
    )
    names = ("PATH", "SYSTEMROOT", "PYTHONPATH", "LD_LIBRARY_PATH", "XDG_CACHE_HOME")
    kept = {name: os.environ[name] for name in names if name in os.environ}  # without CI
    home = {"HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=kept | home)
    assert done.stdout == "ran True False\n"
    assert not [path for path in tmp_path.iterdir() if path.name.lower().startswith("intel")]


# -- the cache on disk ----------------------------------------------------------------------------


def run_once(weight=1.0, **options):
    ops = open_backend("openvino", **options)
    params = Params(weight=np.full((4, 4), weight, np.float32))
    return ops.compile(multiply, params)(np.ones((2, 4), np.float32))


def no_compilation(monkeypatch):
    """Make every compilation fail."""
    from ldmref.backends import openvino as module

    def refuse(*args):
        raise AssertionError("compiled again")

    monkeypatch.setattr(module, "_insert_parameters", refuse)


def test_a_compiled_graph_is_read_again(cache, monkeypatch):
    assert (run_once() == 4.0).all()
    (file,) = cache.iterdir()
    assert file.suffix == ".graph" and cache.stat().st_mode & 0o077 == 0
    no_compilation(monkeypatch)
    assert (run_once() == 4.0).all()


def test_other_weights_and_other_threads_are_other_graphs(cache, monkeypatch):
    from ldmref.backends import openvino as module

    run_once(1.0)
    assert (run_once(2.0) == 8.0).all() and len(list(cache.iterdir())) == 2
    monkeypatch.setattr(module.threads, "count", lambda: 7)
    run_once(1.0)
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("damage", ["shorter", "other bytes", "empty", "another build"])
def test_damaged_files_are_replaced(cache, damage):
    run_once()
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    intact = bytes(content)
    if damage == "shorter":
        content = content[: len(content) // 2]
    elif damage == "other bytes":
        content[-20] ^= 255
    elif damage == "empty":
        content = bytearray()
    else:
        data = b"compiled by another build"
        content = bytearray(disk_cache.seal(file.stem, data) + data)
    file.write_bytes(content)
    assert (run_once() == 4.0).all()
    replaced = file.read_bytes()  # compiled graphs differ in a few bytes from run to run
    assert disk_cache.seal(file.stem, replaced[32:]) == replaced[:32]
    assert len(replaced) > len(intact) // 2 + 32


@pytest.mark.parametrize("place", ["a file", "read-only", "nowhere"])
def test_without_a_cache_folder(tmp_path, monkeypatch, place):
    folder = tmp_path / "home"
    if place == "a file":
        folder.write_text("")
    elif place == "read-only":
        folder.mkdir(mode=0o500)
        if os.access(folder, os.W_OK):  # root may write everywhere
            monkeypatch.setattr(Path, "mkdir", refuse_to_write)
    else:
        monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder) if place != "nowhere" else "relative")
    assert (run_once() == 4.0).all()


def refuse_to_write(*args, **kwargs):
    raise PermissionError("read-only")


def no_home():
    raise RuntimeError("no home folder")


def test_the_cache_has_a_capacity(cache, monkeypatch):
    monkeypatch.setattr(disk_cache, "CAPACITY", 300)
    for i, key in enumerate("abc"):
        disk_cache.write(key, bytes(60))
        os.utime(cache / f"{key}.graph", (i, i))
    assert disk_cache.read("a") == bytes(60)  # now the latest used
    disk_cache.write("d", bytes(60))
    assert sorted(path.stem for path in cache.iterdir()) == ["a", "c", "d"]
    disk_cache.write("e", bytes(301))
    assert disk_cache.read("e") is None and disk_cache.read("b") is None


def test_doctor_reports_the_cache(cache):
    from ldmref.apps.cli.doctor import report_graph_cache

    assert report_graph_cache() == []
    disk_cache.write("a", bytes(2_000_000))
    (finding,) = report_graph_cache()
    assert finding.value == f"{cache}, 1 files, 2 MB" and finding.ok is None


def test_large_networks_are_not_written(cache, monkeypatch):
    monkeypatch.setattr(disk_cache, "LARGEST", 10)
    run_once()
    assert not cache.exists()


def test_processes_share_the_cache(cache):
    """Several processes compile, write and read the same graph at the same time."""
    open_backend("openvino")
    code = """
        import numpy as np
        from ldmref.backends import get_backend
        from ldmref.models.params import Params
        call = get_backend("openvino").compile(
            lambda ops, p, x: ops.linear(x, p.weight), Params(weight=np.ones((4, 4), np.float32))
        )
        assert (call(np.ones((2, 4), np.float32)) == 4.0).all()"""
    environ = os.environ | {"XDG_CACHE_HOME": str(cache.parents[1])}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    running = [subprocess.Popen(command, env=environ) for _ in range(3)]
    assert [process.wait() for process in running] == [0] * 3
    assert [path.suffix for path in cache.iterdir()] == [".graph"]
