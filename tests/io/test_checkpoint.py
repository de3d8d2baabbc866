"""Pickled checkpoints: torch's own files bit for bit, hostile and damaged ones refused."""

from __future__ import annotations

import builtins
import collections
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from safetensors import safe_open

from ldmref.errors import CorruptModelError, InputError, OutputError, UnsafeFileError
from ldmref.io.tensors.safetensors import DTYPES, TensorFile
from ldmref.io.tensors.torch_checkpoint import Name, is_pickle, load_pickle_bytes, read_checkpoint
from ldmref.io.tensors.writer import TensorSource, source, write_tensors

torch = pytest.importorskip("torch")
FORMATS = {"zip": True, "legacy": False}
KINDS = (
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
)


def save(path, value, form="zip", **options):
    torch.save(value, path, _use_new_zipfile_serialization=FORMATS[form], **options)
    return path


def bits(tensor):
    """Return a torch tensor's numbers as bytes."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("form", FORMATS)
def test_every_type_of_number_bit_for_bit(tmp_path, form):
    torch.manual_seed(0)
    state = {kind: (torch.randn(3, 5) * 50).to(getattr(torch, kind)) for kind in KINDS}
    state |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4)}
    found = read_checkpoint(save(tmp_path / "a.ckpt", state, form))
    assert found.tensors.keys() == state.keys() and not found.left_out
    for name, tensor in state.items():
        got = found.read(found.tensors[name])
        assert got.tobytes() == bits(tensor) and got.shape == tuple(tensor.shape), name


@pytest.mark.parametrize("form", FORMATS)
def test_views_and_shared_storages(tmp_path, form):
    base = torch.arange(24.0).reshape(4, 6)
    state = {"base": base, "turned": base.T, "part": base[1:3, ::2], "one": base[2, 3]}
    found = read_checkpoint(save(tmp_path / "a.pt", state, form))
    for name, tensor in state.items():
        assert np.array_equal(found.read(found.tensors[name]), tensor.numpy()), name
    assert len({t.storage.key for t in found.tensors.values()}) == 1


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_modules_and_lightning_checkpoints(tmp_path, protocol):
    layer = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    state = layer.state_dict()
    whole = {
        "state_dict": state,
        "epoch": 3,
        "optimizer_states": [{"state": {0: torch.ones(2)}}],
        "hyper": {"lr": 1e-4, "name": "x", "deep": (1, None, True, b"z")},
    }
    path = save(tmp_path / "a.ckpt", whole, pickle_protocol=protocol)
    found = read_checkpoint(path)
    assert found.tensors.keys() == state.keys()
    assert found.left_out == ["epoch", "optimizer_states", "hyper"]
    parameter = {"weight": torch.nn.Parameter(torch.ones(2)), "inner": {"x": torch.zeros(1)}}
    found = read_checkpoint(save(tmp_path / "b.pt", parameter, pickle_protocol=protocol))
    assert set(found.tensors) == {"weight", "inner.x"}


def test_textual_inversion_of_a1111(tmp_path):
    value = {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(2, 8)}, "step": 5}
    found = read_checkpoint(save(tmp_path / "style.pt", value))
    assert list(found.tensors) == ["emb_params"] and "step" in found.left_out


# -- hostile --------------------------------------------------------------------------------------


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(canary):
    return {
        "os.system": Calls(os.system, f"touch {canary}"),
        "eval": Calls(builtins.eval, f"open({str(canary)!r}, 'w')"),
        "open": Calls(builtins.open, str(canary), "w"),
        "getattr": Calls(getattr, {}, "keys"),
        "io.open": Calls(io.open, str(canary), "w"),
        "numpy": Calls(np.zeros, 3),
        "type": Calls(type, "T", (), {}),
        "a class": os._wrap_close,
        "partial": Calls(__import__("functools").partial, os.system, f"touch {canary}"),
        "torch.load": Calls(torch.load, str(canary)),
    }


@pytest.mark.parametrize("where", ["top", "in a list", "in state_dict", "as a key"])
@pytest.mark.parametrize("form", [*FORMATS, "bare"])
@pytest.mark.parametrize("case", hostile("x"))
def test_anything_but_a_tensor_is_refused_by_name(tmp_path, case, form, where):
    payload = hostile(tmp_path / "canary")[case]
    value = {
        "top": payload,
        "in a list": {"w": torch.ones(2) if form != "bare" else 1, "x": [{"y": (payload,)}]},
        "in state_dict": {"state_dict": collections.OrderedDict(w=payload)},
        "as a key": {"callbacks": (("a", payload),)},
    }[where]
    path = tmp_path / "a.ckpt"
    if form == "bare":
        path.write_bytes(pickle.dumps(value))
    else:
        save(path, value, form)
    with pytest.raises(UnsafeFileError) as error:
        read_checkpoint(path)
    assert error.value.exit_code == 3 and error.value.code == "E-PICKLE"
    assert "a.ckpt names " in str(error.value) and "could run code" in str(error.value)
    assert not (tmp_path / "canary").exists()


def test_the_message_has_the_name(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Calls(os.system, "true")))
    with pytest.raises(
        UnsafeFileError, match=r"a\.pt names (posix|nt)\.system, which is not a tensor"
    ):
        read_checkpoint(tmp_path / "a.pt")


G = {
    "rebuild": b"ctorch._utils\n_rebuild_tensor_v2\n",
    "storage": b"ctorch\nFloatStorage\n",
    "ordered": b"ccollections\nOrderedDict\n",
}
CRAFTED = {
    "state of a function": b"\x80\x02" + G["rebuild"] + b"}b.",
    "attributes of a function": b"\x80\x02" + G["rebuild"] + b"N}X\x05\x00\x00\x00_callN s\x86b.",
    "attributes of a class": b"\x80\x02" + G["ordered"] + b"N}X\x04\x00\x00\x00itemNs\x86b.",
    "call of a storage": b"\x80\x02" + G["storage"] + b"K\x05\x85R.",
    "new object of a function": b"\x80\x02" + G["rebuild"] + b")\x81.",
    "reduce with too few": b"\x80\x02" + G["rebuild"] + b")R.",
    "extension registry": b"\x80\x02\x82\x01.",
    "huge memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "huge text": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "storage that is none": b"\x80\x02(X\x07\x00\x00\x00storageK\x01K\x01K\x01K\x01tQ.",
    "reference that is text": b"\x80\x02X\x03\x00\x00\x00abcQ.",
    "empty": b"\x80\x02",
    "no stop": b"\x80\x02K\x01",
    "stack underflow": b"\x80\x02R.",
    "noise": b"\x80\x02" + bytes(range(200)),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_pickles(case):
    with pytest.raises(InputError):
        load_pickle_bytes(CRAFTED[case], "file")


def test_allowed_names_can_only_be_called():
    name = Name(len)
    assert name([1]) == 1 and not hasattr(name, "__dict__")
    for forbidden in (lambda: setattr(name, "_call", 1), lambda: name.__setstate__({})):
        with pytest.raises(UnsafeFileError):
            forbidden()


def test_attributes_of_a_dictionary_are_dropped():
    """Attributes that torch sets on a state_dict must not hide the dictionary's methods."""
    value = collections.OrderedDict(a=1)
    value.values = "hidden"
    table = load_pickle_bytes(pickle.dumps(value, 2), "file")
    assert list(table.values()) == [1] and not hasattr(table, "__dict__")


def rebuild(offset, shape, strides, numel=4):
    """Return the bytes of a zip file with one tensor that claims to lie so in 4 numbers."""
    out = io.BytesIO()

    class Reference(pickle.Pickler):
        def persistent_id(self, value):
            if value == "HERE":
                return ("storage", torch.FloatStorage, "0", "cpu", numel)

    call = Calls(torch._utils._rebuild_tensor_v2, "HERE", offset, shape, strides, False, None)
    Reference(out, 2).dump({"w": call})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", out.getvalue())
        archive.writestr("a/data/0", np.arange(4, dtype=np.float32).tobytes())
    return file.getvalue()


def test_a_view_may_not_leave_its_storage(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(rebuild(1, (3,), (1,)))
    found = read_checkpoint(path)
    assert found.read(found.tensors["w"]).tolist() == [1, 2, 3]
    for case in (
        (1, (4,), (1,)),
        (0, (2, 2), (3, 1)),
        (0, (3,), (-1,)),
        (-1, (2,), (1,)),
        (0, (10**6, 10**6), (0, 0)),
        (4, (1,), (1,)),
        (0, (2,), (1, 1)),
        (0, (2.0,), (1,)),
        (0, (True,), (1,)),
        (0, (1,) * 100, (1,) * 100),
    ):
        path.write_bytes(rebuild(*case))
        with pytest.raises(CorruptModelError):
            read_checkpoint(path)
    path.write_bytes(rebuild(0, (8,), (1,), numel=8))  # the storage has fewer numbers than it says
    found = read_checkpoint(path)
    with pytest.raises(CorruptModelError):
        found.read(found.tensors["w"])


def test_a_dictionary_that_holds_itself(tmp_path):
    value = {"w": torch.ones(1)}
    value["self"] = value
    found = read_checkpoint(save(tmp_path / "a.pt", value))
    assert "w" in found.tensors


def shared(make, levels=60):
    """A few hundred bytes of pickle that stand for 2^levels objects, each made from one twice."""
    value = make(None, None)
    for _ in range(levels):
        value = make(value, value)
    return value


@pytest.mark.parametrize("form", FORMATS)
def test_a_pickle_that_stands_for_too_many_objects(tmp_path, form):
    def empty(a, b):
        return {} if a is None else {"a": a, "b": b}

    tables = shared(lambda a, b: {"a": a, "b": b})
    for value in (tables, shared(empty), [shared(lambda a, b: [a, b])]):
        path = save(tmp_path / "a.pt", {"w": torch.ones(1), "x": value}, form)
        try:
            assert "w" in read_checkpoint(path).tensors
        except CorruptModelError as error:
            assert error.code == "E-PICKLE-DAMAGED"
    key = pickle.dumps(shared(lambda a, b: (a, b)), 2)[2:-1]
    with pytest.raises(CorruptModelError):
        load_pickle_bytes(b"\x80\2}" + key + b"K\1s.", "file")


# -- damaged --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_cut_files_are_refused(tmp_path, form):
    whole = save(tmp_path / "a.ckpt", {"w": torch.randn(64, 64)}, form).read_bytes()
    for part in (0.1, 0.5, 0.9, 0.999):
        path = tmp_path / "cut.ckpt"
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(CorruptModelError):
            found = read_checkpoint(path)
            found.read(found.tensors["w"])


def test_changed_numbers_are_noticed(tmp_path):
    path = save(tmp_path / "a.ckpt", {"w": torch.full((64,), 1.5)})
    data = path.read_bytes()
    at = data.index(struct.pack("<f", 1.5) * 4)
    path.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
    found = read_checkpoint(path)
    with pytest.raises(CorruptModelError):
        found.read(found.tensors["w"])


def test_zips_that_torch_did_not_write(tmp_path):
    good = save(tmp_path / "good.pt", {"w": torch.ones(4)})
    members = {i.filename: zipfile.ZipFile(good).read(i) for i in zipfile.ZipFile(good).infolist()}

    def write(compression=zipfile.ZIP_STORED, twice=False, **changes):
        with zipfile.ZipFile(tmp_path / "a.pt", "w", compression) as archive:
            for name, data in (members | changes).items():
                archive.writestr(name, data)
            if twice:
                with pytest.warns(UserWarning):
                    archive.writestr("good/data.pkl", b"\x80\x02N.")
        return tmp_path / "a.pt"

    assert "w" in read_checkpoint(write()).tensors
    bad = (
        (write, {"compression": zipfile.ZIP_DEFLATED}),
        (write, {"twice": True}),
        (write, {"other/data.pkl": b"\x80\x02N."}),
        (write, {"good/byteorder": b"big"}),
    )
    for make, changes in bad:
        with pytest.raises(CorruptModelError):
            read_checkpoint(make(**changes))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CorruptModelError, match=r"no data\.pkl"):
        read_checkpoint(tmp_path / "b.zip")


def test_files_without_tensors(tmp_path):
    for value in ({"a": 1}, [torch.ones(1)], torch.ones(1), {}):
        with pytest.raises(CorruptModelError):
            read_checkpoint(save(tmp_path / "a.pt", value))
    with pytest.raises(InputError):
        read_checkpoint(tmp_path / "gone.pt")
    (tmp_path / "p.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CorruptModelError, match=r"not made by torch\.save"):
        read_checkpoint(tmp_path / "p.pkl")


def test_pickles_are_recognised_by_their_bytes(tmp_path):
    write_tensors(tmp_path / "a.bin", {"w": source(np.ones(3))})
    assert not is_pickle(tmp_path / "a.bin")
    assert is_pickle(save(tmp_path / "a.safetensors", {"w": torch.ones(1)}))
    assert is_pickle(save(tmp_path / "b.safetensors", {"w": torch.ones(1)}, "legacy"))
    with pytest.raises(InputError, match="cannot read 'gone'"):
        is_pickle(tmp_path / "gone")


# -- writing --------------------------------------------------------------------------------------


def test_written_files_are_safetensors(tmp_path):
    """Read back by the library, and by our reader."""
    torch.manual_seed(0)
    state = {kind: (torch.randn(3, 5) * 50).to(getattr(torch, kind)) for kind in KINDS}
    state |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4)}
    found = read_checkpoint(save(tmp_path / "a.ckpt", state))
    tensors = {
        n: TensorSource(t.storage.kind, t.shape, lambda t=t: found.read(t))
        for n, t in found.tensors.items()
    }
    write_tensors(tmp_path / "a.safetensors", tensors, {"format": "pt"})
    with safe_open(str(tmp_path / "a.safetensors"), "pt") as file:
        assert file.metadata() == {"format": "pt"} and set(file.keys()) == set(state)
        for name, tensor in state.items():
            assert file.get_tensor(name).dtype == tensor.dtype
            assert torch.equal(file.get_tensor(name), tensor), name
    ours = TensorFile(tmp_path / "a.safetensors")
    assert not any(ours.offsets[n] % DTYPES[kind].itemsize for n, kind in ours.kinds.items())
    assert np.array_equal(ours["bfloat16"], state["bfloat16"].float().numpy())
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []


def test_writing_is_all_or_nothing(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"w": source(np.ones(3))})
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        write_tensors(path, {"w": source(np.zeros(3))})

    def fail():
        raise CorruptModelError("truncated")

    with pytest.raises(CorruptModelError):
        write_tensors(path, {"w": TensorSource("F32", (3,), fail)}, overwrite=True)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(OutputError):
        write_tensors(tmp_path / "no" / "a.safetensors", {"w": source(np.ones(3))})
