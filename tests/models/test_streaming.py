"""Networks that do not fit into memory run block by block, or are refused, and images are equal."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.errors import ResourceError
from ldmref.io.native import save_folder
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.params import flatten, unflatten
from ldmref.models.streaming import count_streamed, stream_blocks
from ldmref.support import free_memory
from ldmref.support.free_memory import find_free_memory

T5 = Path(__file__).parents[1] / "prompts" / "t5" / "tokenizer.json"
FAMILIES = ["tiny", "sd3-tiny", "flux-tiny"]
SIZE = {"seed": 1, "steps": 2, "width": 16, "height": 16}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    model = ldmref.random_model(request.param)
    path = tmp_path_factory.mktemp("models") / request.param
    tokenizers = [
        tokenizer_for(text, T5) if text.model_type == "t5" else tokenizer
        for text, tokenizer in zip(model.config.text_encoders, model.tokenizers, strict=True)
    ]
    save_folder(path, model.config, model.params, tokenizers, np.float32)
    return path


class Part:
    """Stands for the parameters of a block on a backend."""

    def __init__(self, number):
        self.number = number


def test_one_block_is_kept_at_a_time():
    names = ("first.weight", "list.0.a.weight", "list.1.a.weight", "list.1.b", "deep.more.0.weight")
    tree = unflatten({name: i for i, name in enumerate(names)})
    living = weakref.WeakSet()

    def bring(part):
        made = {name: Part(leaf) for name, leaf in flatten(part).items()}
        living.update(made.values())
        return unflatten(made)

    params = stream_blocks(tree, bring)
    assert [part.number for part in living] == [0]
    first, second = params["list"].items_in_order()
    assert "b" in second and "b" not in first and len(second) == 2 and list(second) == ["a", "b"]
    assert len(living) == 1  # names are known before a block is brought
    assert first.a.weight.number == 1 and second["a"].weight.number == 2
    assert sorted(part.number for part in living) == [0, 2, 3]
    assert params.deep.more["0"].weight.number == 4
    assert sorted(part.number for part in living) == [0, 4]
    with pytest.raises(KeyError):
        second["c"]
    with pytest.raises(AttributeError, match="no parameter 'c'"):
        _ = second.c


def test_sizes_by_hand():
    sizes = unflatten({"a": 5, "list.0.w": 7, "list.1.w": 20, "list.1.v": 3, "deep.list.0.w": 9})
    assert count_streamed(sizes) == 5 + 23 + 20  # outside, the largest block, the largest array
    assert count_streamed({}) == 0


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_the_image_of_blocks_is_that_of_the_whole_networks(folder, backend):
    if backend == "torch":
        pytest.importorskip("torch")
    free = ldmref.load(folder, backend=backend)
    want = modes.txt2img(free, "a cat", **SIZE).latents
    needs = free.estimate_memory(16, 16)
    names = free.params.releasable
    denoiser = free.config.denoiser.network
    assert needs.peak_streamed(names) < needs.peak_offloaded(names)
    tight = ldmref.load(folder, backend=backend, max_memory=needs.peak_streamed(names))
    blocks = bring_counted(tight)
    got = modes.txt2img(tight, "a cat", **SIZE).latents
    np.testing.assert_array_equal(got, want)
    assert denoiser in tight.params._streamed and len(blocks) > 2 * SIZE["steps"]
    cost = modes.plan("txt2img", free, prompt="a cat", **SIZE).estimate(free)
    assert cost.memory == needs.peak_resident and cost.least_memory == needs.peak_streamed(names)


def bring_counted(model):
    """Return a list that gets a name for each tree that the model's parameters bring."""
    brought = []
    bring = model.params._bring

    def counted(tree, copy=False):
        brought.append(next(iter(tree), ""))
        return bring(tree, copy)

    model.params._bring = counted
    return brought


def test_weights_on_the_backend_are_never_more_than_the_estimate(folder, monkeypatch):
    """All arrays that live at once, while a network of blocks runs."""
    monkeypatch.setattr("ldmref.loading.EAGER_BYTES", 0)
    model = ldmref.load(folder, backend="numpy", speed="exact")
    needs = model.estimate_memory(16, 16)
    model.max_memory = needs.peak_streamed(model.params.releasable)
    living = weakref.WeakValueDictionary()
    most = [0]
    weight = type(model.backend).weight

    def counted(self, x):
        array = np.array(weight(self, x))
        living[id(array)] = array
        most[0] = max(most[0], sum(x.nbytes for x in living.values()))
        return array

    monkeypatch.setattr(type(model.backend), "weight", counted)
    modes.txt2img(model, "a cat", **SIZE)
    sizes = {**needs.weights, **{name: needs.streamed[name] for name in model.params._streamed}}
    assert 0 < most[0] <= max(sizes.values()) < sum(needs.weights.values())


def test_the_free_memory_decides_how_networks_are_kept(folder, monkeypatch):
    monkeypatch.setattr("ldmref.loading.EAGER_BYTES", 0)
    model = ldmref.load(folder)
    needs = model.estimate_memory(16, 16)
    names = model.params.releasable
    want = None
    for free, offloaded, streamed in (
        (None, False, False),
        (needs.peak_resident, False, False),
        (needs.peak_offloaded(names), True, False),
        (needs.peak_streamed(names), True, True),
        (needs.peak_resident, False, False),
    ):
        monkeypatch.setattr("ldmref.models.networks.find_free_memory", lambda free=free: free)
        got = modes.txt2img(model, "a cat", **SIZE).latents
        want = got if want is None else want
        np.testing.assert_array_equal(got, want)
        assert (model._offload, bool(model.params._streamed)) == (offloaded, streamed)
    monkeypatch.setattr("ldmref.models.networks.find_free_memory", lambda: 10**8)
    with pytest.raises(ResourceError, match=r"more than the 0\.1 GB of free memory; max_memory"):
        modes.txt2img(model, "a cat", **SIZE)
    model.max_memory = 10**10  # an explicit limit is not compared with the machine
    modes.txt2img(model, "a cat", **SIZE)


def test_small_models_are_read_at_once_and_not_refused(folder, monkeypatch):
    monkeypatch.setattr("ldmref.models.networks.find_free_memory", lambda: 1)
    modes.txt2img(ldmref.load(folder), "a cat", **SIZE)


def test_a_trace_reads_whole_networks(folder, tmp_path):
    needs = ldmref.load(folder).estimate_memory(16, 16)
    least = needs.peak_streamed(ldmref.load(folder).params.releasable)
    tight = ldmref.load(folder, max_memory=least)
    with ldmref.recording(tight, tmp_path / "trace") as recorded:
        modes.txt2img(tight, "a cat", **SIZE)
    layers = [name for name in recorded.trace.tensors if name.endswith("/output")]
    assert len(layers) > 100


def test_free_memory_of_machine_and_group(tmp_path, monkeypatch):
    for name, text in {
        "meminfo": "MemTotal: 900 kB\nMemAvailable: 500 kB\nHugePages_Total: 0\n",
        "status": "Name:\tpython\nVmRSS:\t 90 kB\nRssAnon:\t 70 kB\n",
        "memory.max": "400000\n",
        "memory.stat": "anon 100000\nfile 50000\n",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(free_memory, "MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(free_memory, "PROCESS", tmp_path / "status")
    monkeypatch.setattr(free_memory, "GROUP", tmp_path)
    assert find_free_memory() == 400000 - 100000 + 70 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert find_free_memory() == 500 * 1024 + 70 * 1024
    (tmp_path / "memory.max").unlink()
    assert find_free_memory() == 500 * 1024 + 70 * 1024
    (tmp_path / "meminfo").unlink()
    assert find_free_memory() is None
