"""Backends by name: built-ins, plug-ins, and what is missing."""

import importlib.metadata
import subprocess
import sys
import textwrap
import types

import pytest

import ldmref.backends as registry
from ldmref.backends import Backend, available, get_backend
from ldmref.backends.numpy import NumpyBackend
from ldmref.errors import BackendUnavailable, LdmrefError, UsageError


class MyBackend(NumpyBackend):
    name = "mine"


class Panic(BaseException):
    """As the libraries written in Rust raise it."""


def panics(device=None, dtype=None):
    raise Panic("a plug-in panics")


@pytest.fixture
def plug_ins(monkeypatch):
    """Install entry points that point into a throw-away module."""
    module = types.ModuleType("their_package")
    module.MyBackend = MyBackend
    module.NotABackend = lambda device=None, dtype=None: 42
    module.exits = lambda device=None, dtype=None: sys.exit("a plug-in leaves")
    module.panics = panics
    monkeypatch.setitem(sys.modules, "their_package", module)
    real = importlib.metadata.entry_points
    ours = []

    def entry_points(**select):
        return ours if select == {"group": "ldmref.backends"} else real(**select)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)

    def install(**entries):
        for name, value in entries.items():
            ours.append(importlib.metadata.EntryPoint(name, value, "ldmref.backends"))

    return install


def test_numpy_by_name():
    ops = get_backend("numpy", device="cpu", dtype="float64")
    assert isinstance(ops, Backend) and ops.describe()["dtype"] == "float64"
    assert get_backend("numpy").dtype == "float32"


def test_torch_by_name():
    pytest.importorskip("torch")
    ops = get_backend("torch", dtype="bfloat16")
    assert (ops.name, ops.device, ops.dtype) == ("torch", "cpu", "bfloat16")


def test_a_backend_passes_through():
    ops = NumpyBackend(dtype="float64")
    assert get_backend(ops) is ops and get_backend(ops, "cpu", "float64") is ops
    with pytest.raises(UsageError, match="already has"):
        get_backend(ops, dtype="float32")


@pytest.mark.parametrize(
    ("name", "hint"), [("nunpy", "'numpy'"), ("pytorch", "'torch'"), ("", "Known")]
)
def test_unknown_names(name, hint):
    with pytest.raises(UsageError) as caught:
        get_backend(name)
    assert caught.value.code == "E-BACKEND-NAME" and caught.value.exit_code == 2
    assert hint in caught.value.hint and "cupy, numpy, onnx, openvino, torch" in caught.value.hint


def test_unknown_dtype():
    with pytest.raises(UsageError) as caught:
        get_backend("numpy", dtype="float23")
    assert caught.value.code == "E-DTYPE" and "float32" in caught.value.hint


@pytest.mark.parametrize(("name", "device"), [("numpy", "cuda"), ("torch", "abacus")])
def test_unknown_device(name, device):
    if name == "torch":
        pytest.importorskip("torch")
    with pytest.raises(BackendUnavailable) as caught:
        get_backend(name, device=device)
    assert caught.value.code == "E-DEVICE"


def test_available_lists_the_built_ins_in_order(plug_ins):
    assert list(available()) == ["numpy", "torch", "onnx", "openvino", "cupy"]
    assert available()["numpy"] == ""


def test_a_plug_in(plug_ins):
    plug_ins(mine="their_package:MyBackend")
    ops = get_backend("mine", dtype="float64")
    assert type(ops) is MyBackend and ops.dtype == "float64"
    with pytest.raises(UsageError) as caught:
        get_backend("mime")
    assert "did you mean 'mine'" in caught.value.hint


def test_a_plug_in_may_not_take_a_built_in_name(plug_ins):
    plug_ins(numpy="their_package:MyBackend")
    assert type(get_backend("numpy")) is not MyBackend
    assert (
        list(available()) == ["numpy", "torch", "onnx", "openvino", "cupy"]
        and not available()["numpy"]
    )


def test_two_plug_ins_of_one_name(plug_ins):
    plug_ins(mine="their_package:MyBackend")
    plug_ins(mine="their_package:NotABackend")
    with pytest.raises(UsageError, match="two plug-ins") as caught:
        get_backend("mine")
    assert caught.value.code == "E-PLUGIN"


def test_a_plug_in_that_makes_no_backend(plug_ins):
    plug_ins(odd="their_package:NotABackend")
    with pytest.raises(UsageError, match="gave a int, not a Backend"):
        get_backend("odd")


@pytest.mark.parametrize(
    "value",
    ["no_such_package:X", "their_package:Missing", "their_package:exits", "their_package:panics"],
)
def test_a_broken_plug_in_is_named_and_harms_nobody(plug_ins, value):
    plug_ins(broken=value, mine="their_package:MyBackend")
    with pytest.raises(BackendUnavailable, match="broken") as caught:
        get_backend("broken")
    assert caught.value.exit_code == 5 and value in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (
        list(available()) == ["numpy", "torch", "onnx", "openvino", "cupy"]
        and not available()["numpy"]
    )
    assert type(get_backend("mine")) is MyBackend


def test_a_plug_in_is_loaded_only_when_named(plug_ins):
    plug_ins(broken="no_such_package:X")
    assert get_backend("numpy").name == "numpy"


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_registry_imports_no_array_library_that_was_not_named():
    code = """
        import sys
        import ldmref.backends
        print("ldmref.backends.numpy" in sys.modules)
        ldmref.backends.get_backend("numpy")
        others = ("torch", "onnx", "openvino", "cupy", "scipy.special")
        print([m for m in others if m in sys.modules])"""
    assert run_python(code).split("\n") == ["False", "[]"]


@pytest.mark.parametrize("error", ["ImportError", "OSError"])  # not installed; a broken library
def test_without_torch(error):
    code = f"""
        import sys
        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "torch":
                    raise {error}("no torch in this house")
        sys.meta_path.insert(0, Block())
        from ldmref.backends import available, get_backend
        try:
            get_backend("torch")
        except Exception as error:
            print(type(error).__name__, error.code, error.exit_code, sep="|", end="|")
            print(available()["torch"])"""
    kind, error_code, exit_code, reason = run_python(code).split("|")
    assert (kind, error_code, exit_code) == ("BackendUnavailable", "E-BACKEND", "5")
    assert "torch" in reason and (error == "OSError" or "pip install 'ldmref[torch]'" in reason)


def test_operations_that_a_plug_in_lacks_are_named(plug_ins):
    sys.modules["their_package"].Bare = type("Bare", (Backend,), {"linear": NumpyBackend.linear})
    plug_ins(bare="their_package:Bare")
    with pytest.raises(UsageError) as caught:
        get_backend("bare")
    assert caught.value.code == "E-PLUGIN"
    assert "xp" in str(caught.value) and "conv2d(x, weight, bias" in str(caught.value)
    assert "linear" not in str(caught.value)


def test_the_package_of_a_plug_in_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "their_package-1.2.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.2\n")
    (folder / "entry_points.txt").write_text("[ldmref.backends]\nbroken = no_such_package:X\n")
    with pytest.raises(BackendUnavailable, match=r"their-package 1\.2"):
        get_backend("broken")
    assert get_backend("numpy").name == "numpy"


def test_every_failure_is_an_ldmref_error(plug_ins):
    plug_ins(broken="no_such_package:X")
    for name in ("nope", "broken", None, 3):
        with pytest.raises(LdmrefError):
            get_backend(name)


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": 3},
        {"name": "numpy", "device": 1},
        {"name": "numpy", "dtype": float},
        {"name": "numpy", "speed": True},
    ],
)
def test_names_are_text(arguments):
    with pytest.raises(UsageError, match="must be a name, not of type") as caught:
        get_backend(**arguments)
    assert caught.value.code == "E-TYPE"


@pytest.mark.parametrize("name", ["NumPy", "NUMPY"])
def test_names_in_capitals(name):
    assert get_backend(name).name == "numpy"


@pytest.mark.parametrize("change", [{"device": "cuda"}, {"dtype": "float32"}, {"speed": "fast"}])
def test_a_backend_that_is_there_cannot_be_changed(change):
    ops = NumpyBackend(dtype="float64")
    assert get_backend(ops, device="cpu", dtype="float64", speed="exact") is ops
    with pytest.raises(UsageError) as caught:
        get_backend(ops, **change)
    assert caught.value.code == "E-BACKEND" and caught.value.hint


def test_a_plug_in_hears_of_speed_only_if_asked(plug_ins):
    heard = []

    def factory(**arguments):
        heard.append(arguments)
        return MyBackend(**arguments)

    sys.modules["their_package"].factory = factory
    plug_ins(mine="their_package:factory")
    get_backend("mine", dtype="float64")
    get_backend("MINE", "cpu", "float64", "exact")
    plain = {"device": None, "dtype": "float64"}
    assert heard == [plain, {"device": "cpu", "dtype": "float64", "speed": "exact"}]


def test_an_error_of_a_plug_in_in_our_words_stays_as_it_is(plug_ins):
    def factory(device=None, dtype=None):
        raise BackendUnavailable("no room", code="E-MINE", hint="make room")

    sys.modules["their_package"].factory = factory
    plug_ins(mine="their_package:factory")
    with pytest.raises(BackendUnavailable) as caught:
        get_backend("mine")
    assert caught.value.code == "E-MINE" and caught.value.hint == "make room"


@pytest.mark.parametrize("name,kind", [("mine", "plug-in 'mine'"), ("numpy", "numpy backend")])
def test_who_failed_is_named(plug_ins, monkeypatch, name, kind):
    plug_ins(mine="their_package:NotABackend")
    monkeypatch.setitem(registry.BUILT_IN, "numpy", "their_package:exits")
    with pytest.raises(LdmrefError, match=kind):
        get_backend(name)
