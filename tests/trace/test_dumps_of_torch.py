"""Dumps of `torch.save`, of sglang's dumper and of transformers' debugger, and raw numbers."""

import json

import numpy as np
import pytest

from ldmref.errors import CorruptModelError, InputError, UnsafeFileError
from ldmref.trace import load_trace

NAME = "unet.000/conv_in/output"
X = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)


def describe(folder, **changes):
    row = {"file": "dump.bin", "shape": list(X.shape), "dtype": "float32", "offset": 8} | changes
    (folder / "dump.json").write_text(json.dumps({NAME: row}))
    return folder / "dump.json"


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int32"])
def test_raw_numbers_are_read(tmp_path, dtype):
    (tmp_path / "dump.bin").write_bytes(bytes(8) + X.astype(dtype).tobytes())
    trace = load_trace(describe(tmp_path, dtype=dtype))
    np.testing.assert_array_equal(trace.tensors[NAME], X)
    np.testing.assert_array_equal(load_trace(tmp_path).tensors[NAME], X)


def test_raw_bfloat16_is_read(tmp_path):
    bits = (X.view(np.uint32) >> 16).astype("<u2")
    (tmp_path / "dump.bin").write_bytes(bits.tobytes())
    trace = load_trace(describe(tmp_path, dtype="bfloat16", offset=0))
    np.testing.assert_array_equal(trace.tensors[NAME], X)
    assert trace.kinds == {NAME: "BF16"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"shape": [2, 3, 2, 2]}, CorruptModelError, "has 56 bytes"),
        ({"shape": [2**40, 2**40]}, CorruptModelError, "has 56 bytes"),
        ({"shape": [-1]}, CorruptModelError, "is damaged"),
        ({"shape": "x"}, CorruptModelError, "is damaged"),
        ({"offset": -8}, CorruptModelError, "is damaged"),
        ({"dtype": "complex64"}, CorruptModelError, "is damaged"),
        ({"dtype": []}, CorruptModelError, "is damaged"),
        ({"file": "../dump.bin"}, InputError, "is not in the folder"),
        ({"file": "/etc/passwd"}, InputError, "is not in the folder"),
        ({"file": "none.bin"}, InputError, "none.bin"),
    ],
)
def test_damaged_descriptions_are_refused(tmp_path, changes, error, message):
    (tmp_path / "dump.bin").write_bytes(bytes(8) + X.tobytes())
    with pytest.raises(error, match=message):
        load_trace(describe(tmp_path, **changes))


def test_a_file_of_torch_is_read_without_its_code(tmp_path):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(X)
    torch.save({NAME: x, "unet.000/conv_out/output": x.bfloat16()}, tmp_path / "dump.pt")
    trace = load_trace(tmp_path / "dump.pt")
    np.testing.assert_array_equal(trace.tensors[NAME], X)
    np.testing.assert_array_equal(trace.tensors["unet.000/conv_out/output"], X)
    assert trace.kinds == {"unet.000/conv_out/output": "BF16"}
    torch.save({NAME: x}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(load_trace(tmp_path / "old.pt").tensors[NAME], X)


def test_a_folder_of_single_tensors_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.from_numpy(X), tmp_path / "unet.000__conv_in__output.pt")
    np.testing.assert_array_equal(load_trace(tmp_path).tensors[NAME], X)


def test_a_folder_of_sglangs_dumper_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    for step in range(2):
        file = f"step={step}___rank=0___dump_index={9 + step}___name=first_conv.pt"
        row = {"value": torch.from_numpy(X + step), "meta": {"step": step, "name": "first_conv"}}
        torch.save(row, tmp_path / file)
    names = {"first_conv": NAME, "first_conv~1": "unet.001/conv_in/output"}
    trace = load_trace(tmp_path, names)
    np.testing.assert_array_equal(trace.tensors[NAME], X)
    np.testing.assert_array_equal(trace.tensors["unet.001/conv_in/output"], X + 1)


def test_code_in_a_pickle_is_refused(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    (tmp_path / "dump.pt").write_bytes(pickle.dumps({NAME: Evil()}))
    for path in (tmp_path / "dump.pt", tmp_path):
        with pytest.raises((UnsafeFileError, InputError)):
            load_trace(path)


def debug(folder, **options):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    debugging = pytest.importorskip("transformers.model_debugging_utils")
    config = transformers.CLIPTextConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=8, eos_token_id=39,
    )  # fmt: skip
    model = transformers.CLIPTextModel(config).eval()
    ids = torch.tensor([[1, 2, 3, 39]])
    with debugging.model_addition_debugger_context(
        model, debug_path=str(folder), do_prune_layers=False, **options
    ):
        return model(input_ids=ids).last_hidden_state.detach().numpy(), ids.numpy()


def test_the_folder_of_transformers_debugger_is_read(tmp_path):
    output, ids = debug(tmp_path, use_repr=False)
    trace = load_trace(tmp_path)
    np.testing.assert_array_equal(trace.tensors["text_encoder//input.input_ids"], ids)
    layers = {entry.layer for entry in trace.of_call("text_encoder") if entry.outputs}
    assert any(layer.endswith("encoder.layers.1.mlp.fc2") for layer in layers)
    norm = next(e for e in trace.entries if e.layer.endswith("final_layer_norm"))
    np.testing.assert_array_equal(trace.read_outputs(norm)["output"], output)
    assert trace.read_inputs(norm)["input"].shape == output.shape


def test_printed_arrays_are_refused(tmp_path):
    debug(tmp_path)
    with pytest.raises(InputError, match="printed, not saved") as refusal:
        load_trace(tmp_path)
    assert "use_repr=False" in refusal.value.hint
