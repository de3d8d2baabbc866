"""Threads that generate at the same time, with one model or several: the images of a serial run.

The first requests to a model meet in its lazy parts, so every round begins with a new model.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.backends.numpy import NumpyBackend
from ldmref.errors import BackendUnavailable
from ldmref.io.native import save_folder
from ldmref.models.lazy_params import CompiledNetworks, LazyParams
from ldmref.models.params import Params

BACKENDS = ("numpy", "torch", "onnx", "openvino")
ROUNDS = 2
IMAGE = Image.fromarray(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3)[:32, :32])
MASK = Image.fromarray(np.tri(32, dtype=np.uint8) * 255)


@pytest.fixture(autouse=True)
def frequent_switches():
    """Give other threads a turn as often as possible, where only one of them runs at a time."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def open_model(backend, skip):
    try:
        return ldmref.random_model("tiny", backend=backend)
    except BackendUnavailable as error:
        skip(backend, error)


def generate(model, i):
    """Return the latents of request `i`, which differ in mode, prompt, sampler and length."""
    prompt = ["a red heart", "two (blue:1.3) stars", "a cat on green", "a very small tree"][i % 4]
    sampler = ["ddim", "dpmpp_2m", "euler_ancestral", "heun"][i % 4]
    common = {"seed": i, "steps": 2 + i % 2, "sampler": sampler, "cfg_scale": 4}
    if i % 3 == 1:
        return modes.img2img(model, prompt, IMAGE, **common).latents
    if i % 3 == 2:
        return modes.inpaint(model, prompt, IMAGE, MASK, **common).latents
    return modes.txt2img(model, prompt, **common).latents


def run_together(functions):
    """Return the results of functions that start at the same time, each in its own thread."""
    gate = threading.Barrier(len(functions))

    def run(function):
        gate.wait(20)
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(run, functions))


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_share_a_new_model(backend, skip):
    model = open_model(backend, skip)
    serial = [generate(model, i) for i in range(6)]
    for _ in range(ROUNDS):
        model = open_model(backend, skip)
        calls = [lambda i=i, model=model: generate(model, i) for i in range(6)]
        for i, latents in enumerate(run_together(calls)):
            np.testing.assert_array_equal(latents, serial[i], err_msg=f"request {i}")


def test_each_thread_has_another_backend(skip):
    names = [name for name in BACKENDS for _ in range(2)]
    models = {name: open_model(name, skip) for name in BACKENDS}
    serial = [generate(models[name], i) for i, name in enumerate(names)]
    models = {name: open_model(name, skip) for name in BACKENDS}
    calls = [lambda i=i, m=models[name]: generate(m, i) for i, name in enumerate(names)]
    for i, latents in enumerate(run_together(calls)):
        np.testing.assert_array_equal(latents, serial[i], err_msg=f"{names[i]}, request {i}")


def test_threads_share_a_model_whose_weights_are_still_in_its_file(tmp_path):
    made = ldmref.random_model("tiny")
    save_folder(tmp_path / "model", made.config, made.params, [made.tokenizer])
    model = ldmref.load(tmp_path / "model", backend="numpy")
    serial = [generate(model, i) for i in range(6)]
    for _ in range(ROUNDS):
        model = ldmref.load(tmp_path / "model", backend="numpy")
        assert set(model.params.releasable) >= {"unet", "vae"}
        calls = [lambda i=i, model=model: generate(model, i) for i in range(6)]
        calls.append(lambda model=model: [model.params.release("unet") for _ in range(200)])
        for i, latents in enumerate(run_together(calls)[:-1]):
            np.testing.assert_array_equal(latents, serial[i], err_msg=f"request {i}")


# -- work that is done once, whichever thread comes first ------------------------------------------


def test_a_network_is_brought_from_its_file_once(tmp_path):
    np.save(tmp_path / "weight.npy", np.ones((4, 4), np.float32))
    mapped = np.load(tmp_path / "weight.npy", mmap_mode="r")
    brought = []

    class Slow(NumpyBackend):
        def weight(self, x):
            brought.append(threading.get_ident())
            threading.Event().wait(0.05)
            return super().weight(x)

    params = LazyParams(Slow(), {"unet": {"weight": mapped}})
    found = run_together([lambda: params["unet"]] * 4)
    assert len(brought) == 1 and all(tree is found[0] for tree in found)


class Compiling(NumpyBackend):
    """Counts what it compiles, slowly."""

    def set_up(self):
        super().set_up()
        self.compiled = []

    def compile(self, network, params):
        self.compiled.append(network)
        threading.Event().wait(0.05)
        return super().compile(network, params)


def double(ops, p, x):
    return 2 * x


def test_a_network_is_compiled_once():
    ops, params, networks = Compiling(), Params(), CompiledNetworks()
    found = run_together([lambda: networks.get(ops, double, params)] * 4)
    assert len(ops.compiled) == 1 and all(network is found[0] for network in found)


def test_one_thread_forgets_networks_while_another_adds_some():
    """Release the text encoder while another thread compiles the decoder."""
    ops, params, networks = NumpyBackend(), Params(), CompiledNetworks()
    adder = threading.Thread(target=lambda: networks.get(ops, double, params, "added"))

    class Name(str):
        """A name that lets the other thread run when it is compared."""

        __hash__ = str.__hash__

        def __eq__(self, other):
            if other == "gone" and not adder.is_alive():
                adder.start()
                adder.join(0.2)
            return str.__eq__(self, other)

    networks.get(ops, double, params, Name("first"))
    networks.get(ops, double, params, "second")
    networks.forget("gone")
    adder.join()
    assert {name for name, _ in networks._entries} == {"first", "second", "added"}
