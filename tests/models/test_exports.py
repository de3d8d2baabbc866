"""The names that packages export at their first use, and short reprs."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import numpy as np
import pytest

import ldmref
from ldmref.models.params import init
from ldmref.models.taesd import TinyAutoencoder, TinyConfig, tiny_spec
from ldmref.support.lazy import export_lazily

PACKAGES = ("ldmref.models", "ldmref.io", "ldmref.prompts")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_completed_and_loaded_at_first_use(name):
    package = importlib.import_module(name)
    assert set(package.__all__) <= set(dir(package))
    for public in package.__all__:
        assert getattr(package, public) is not None
        assert public in dir(package) and f".{public}" not in sys.modules
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'lod'"):
        _ = package.lod


@pytest.mark.parametrize("name", (*PACKAGES, "ldmref.samplers"))
def test_no_module_takes_the_place_of_a_public_name(name):
    """Importing a module replaces a name of the package that it has, too."""
    package = importlib.import_module(name)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{name}.{module.name}")
    found = {public: getattr(package, public) for public in package.__all__}
    assert [public for public, value in found.items() if inspect.ismodule(value)] == []


@pytest.mark.parametrize("name", PACKAGES)
def test_importing_a_package_loads_no_library(name):
    code = (
        f"import sys, {name}\n"
        "heavy = {'numpy', 'PIL', 'tokenizers', 'torch'} & set(sys.modules)\n"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_models_and_tokenizers_are_one_line():
    model = ldmref.random_model("tiny", backend="numpy", dtype="float64")
    assert repr(model) == "<LatentDiffusion 'tiny' on <numpy backend, cpu, float64>>"
    assert repr(model.tokenizer) == "<PromptTokenizer of 14 tokens, length 16>"
    config = TinyConfig(num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))
    tiny = TinyAutoencoder(model.backend, config, init(tiny_spec(config)))
    assert repr(tiny) == "<TinyAutoencoder on <numpy backend, cpu, float64>>"
    params = repr(model.params)
    assert params == "<LazyParams of unet, vae, text_encoder>" and np.__name__ not in params


def test_files_are_short_without_their_numbers():
    from ldmref.io.adapters.lora_file import Lora
    from ldmref.prompts import Embedding, Vocabulary

    word = Embedding("<toy>", np.ones((2, 768), np.float32))
    assert repr(word) == "Embedding(word='<toy>', encoder='')"
    assert repr(Vocabulary({"a": 0}, [("a", "b")])) == "Vocabulary(added={}, pad=None)"
    lora = Lora("style", {"x": np.ones((300, 300))}, 0.5)
    assert repr(lora) == "Lora(name='style', weight=0.5, sha256='', adapter={})"


def test_taesd_is_loaded_onto_a_backend_by_name(tmp_path):
    from ldmref.io.tensors.writer import source, write_tensors
    from ldmref.models import flatten

    tensors = flatten(init(tiny_spec(TinyConfig())))
    path = tmp_path / "taesd.safetensors"
    write_tensors(path, {name: source(np.asarray(x)) for name, x in tensors.items()})
    tiny = ldmref.load_taesd(path, "numpy", dtype="float64")
    assert "float64" in repr(tiny)
    latents = np.random.default_rng(0).standard_normal((1, 4, 2, 2))
    same = ldmref.load_taesd(path, tiny.backend).decode(latents)
    np.testing.assert_array_equal(tiny.decode(latents), same)


def test_public_names_are_read_from_the_imports_of_type_checkers(tmp_path, monkeypatch):
    folder = tmp_path / "listed"
    folder.mkdir()
    (folder / "part.py").write_text("found = 1\nhidden = 2\n")
    (folder / "same.py").write_text("same = 3\n")
    (folder / "__init__.py").write_text(
        "from typing import TYPE_CHECKING\nfrom ldmref.support.lazy import export_lazily\n"
        "from listed.same import same as same\n"
        "if TYPE_CHECKING:\n"
        "    from listed.part import found as found\n    from listed.part import hidden\n"
        "__getattr__, __dir__, __all__ = export_lazily(__name__)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    listed = importlib.import_module("listed")
    assert listed.__all__ == ["found", "same"]
    assert dir(listed) == ["__all__", "found", "part", "same"]
    assert "listed.part" not in sys.modules and (listed.found, listed.same) == (1, 3)
    with pytest.raises(AttributeError, match="no attribute 'hidden'"):
        _ = listed.hidden
    (folder / "__init__.py").unlink()
    with pytest.raises(ImportError, match="which is missing"):
        export_lazily("listed")
