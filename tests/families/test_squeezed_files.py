"""GGUF files whose axes of length 1 are missing, as ggml and its writers leave them out."""

from __future__ import annotations

import numpy as np
import pytest
from gguf_files import gguf_bytes

from ldmref.errors import KeyMismatchError
from ldmref.io.key_table import KeyEntry, fit, to_compvis
from ldmref.io.single_file import recognise_file
from ldmref.io.tensors.open_file import open_model_file
from ldmref.models.family import family_of
from ldmref.models.networks import model_spec
from ldmref.models.params import flatten
from ldmref.models.presets import list_presets


def drop_leading(shape):
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


def drop_trailing(shape):
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def drop_all(shape):
    return tuple(size for size in shape if size != 1)


DROPPED = [drop_leading, drop_trailing, drop_all]


def list_layouts(tiny):
    """Yield every layout of single files of every preset; files of all networks need no rows."""
    for name, config in list_presets().items():
        if name.endswith("-tiny") == tiny:
            for number, layout in enumerate(family_of(config).files):
                if not layout.whole and layout.table(config):
                    yield pytest.param(config, layout, id=f"{name}-{number}")


def has_ones(config, layout):
    return any(1 in entry.stored_shape for entry in layout.table(config).values())


TINY = [row for row in list_layouts(True) if has_ones(*row.values)]


def write_gguf(path, tensors, drop):
    """Write tensors with the package `gguf`, without some axes of length 1."""
    import gguf

    writer = gguf.GGUFWriter(path, "other")
    for name, x in tensors.items():
        writer.add_tensor(name, x.reshape(drop(x.shape)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_rows_have_what_published_files_have():
    assert {row.values[0].denoiser.family for row in TINY} >= {"sd3", "z-image", "krea2"}


@pytest.mark.parametrize("drop", DROPPED)
@pytest.mark.parametrize(("config", "layout"), TINY)
def test_files_without_axes_of_one_are_read(tmp_path, config, layout, drop):
    pytest.importorskip("gguf")
    rng = np.random.default_rng(0)
    network = config.denoiser.network
    shapes = flatten(model_spec(config)[network])
    table = {name: x for name, x in layout.table(config).items() if isinstance(x, KeyEntry)}
    own = {name: rng.normal(size=shapes[name]).astype(np.float32) for name in table}
    write_gguf(tmp_path / "a.gguf", to_compvis(own, table), drop)
    found = recognise_file(open_model_file(tmp_path / "a.gguf"), config).read()
    for name, x in own.items():
        assert np.array_equal(np.asarray(found[f"{network}.{name}"]), x), name


@pytest.mark.parametrize(("config", "layout"), [*list_layouts(False)])
def test_published_models_are_recognised_without_axes_of_one(config, layout):
    shapes = {entry.name: entry.stored_shape for entry in layout.table(config).values()}
    known = layout.recognise and layout.recognise(shapes)
    if known is not None and fit(shapes, layout.table(known)).fits:
        for drop in DROPPED:
            found = layout.recognise({name: drop(x) for name, x in shapes.items()})
            assert found == known, drop.__name__


def test_numbers_of_another_order_are_refused(tmp_path):
    config, layout = next(row.values for row in TINY if row.values[0].name == "z-image-tiny")
    own = {name: entry for name, entry in layout.table(config).items()}
    tensors = {
        entry.name: (0, entry.stored_shape, np.zeros(entry.stored_shape, "<f4").tobytes())
        for entry in own.values()
    }
    name = next(name for name in tensors if name.endswith("cap_pad_token"))
    kind, shape, raw = tensors[name]
    tensors[name] = (kind, (2, shape[-1] // 2), raw)
    (tmp_path / "a.gguf").write_bytes(gguf_bytes(tensors))
    with pytest.raises(KeyMismatchError, match=r"cap_pad_token is \(2, \d+\), not \(1, \d+\)"):
        recognise_file(open_model_file(tmp_path / "a.gguf"), config)
