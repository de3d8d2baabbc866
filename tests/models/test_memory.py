"""Networks come when they are needed, go when there is no room, and are reckoned with before."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.errors import ResourceError, UsageError
from ldmref.io.native import save_folder
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.models.memory import (
    PROGRAM,
    MemoryEstimate,
    check_seconds,
    estimate_memory,
    parse_bytes,
)
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import flatten, init
from ldmref.models.presets import preset
from ldmref.support.memmap import find_mapping, release_pages


@pytest.fixture(scope="module", params=["float16", "float32"])
def folder(request, tmp_path_factory):
    model = ldmref.random_model("tiny", dtype="float64")
    path = tmp_path_factory.mktemp("m") / request.param
    save_folder(path, model.config, model.params, [model.tokenizer], np.dtype(request.param).type)
    return path


def test_a_mapped_array_is_known_and_reads_the_same_after_its_pages_are_released(folder):
    file = TensorFile(folder / "model.safetensors")
    for name in list(file)[:20]:
        part = file[name][..., ::2]
        assert find_mapping(part) is not None
        before = part.copy()
        release_pages(part)
        np.testing.assert_array_equal(part, before)
    assert find_mapping(np.ones(3)) is None and find_mapping(np.ones((3, 3))[1:].T) is None
    release_pages(np.ones(3))


def test_networks_are_brought_when_they_are_used(folder, monkeypatch):
    assert len(ldmref.load(folder, backend="numpy").params._on_backend) == 3  # small: at once
    monkeypatch.setattr("ldmref.loading.EAGER_BYTES", 0)
    model = ldmref.load(folder, backend="numpy")
    assert not model.params._on_backend and set(model.params) == {"unet", "vae", "text_encoder"}
    model.encode_text(["a cat"])
    assert set(model.params._on_backend) == {"text_encoder"}
    assert model.params.unet is model.params["unet"]
    with pytest.raises(AttributeError, match="no network 'vea'"):
        _ = model.params.vea


def test_large_text_encoders_leave_when_the_prompts_are_read(folder, monkeypatch):
    model = ldmref.load(folder, backend="numpy")
    want = modes.txt2img(model, "a cat", seed=1, steps=1)
    assert "text_encoder" in model.params._on_backend
    monkeypatch.setattr("ldmref.models.networks.RELEASED_PARAMETERS", 1)
    model = ldmref.load(folder, backend="numpy")
    got = modes.txt2img(model, "a cat", seed=1, steps=1)
    assert set(model.params._on_backend) == {"unet", "vae"}
    again = modes.txt2img(model, "a cat", seed=1, steps=1)
    assert np.array_equal(got.latents, want.latents) and np.array_equal(got.latents, again.latents)


def test_kernels_stay_in_the_file_and_in_its_type(folder, monkeypatch):
    monkeypatch.setattr("ldmref.loading.EAGER_BYTES", 0)
    model = ldmref.load(folder, backend="numpy")
    weight = model.params.unet.conv_in.weight
    assert find_mapping(weight) is not None and weight.dtype == folder.name
    exact = ldmref.load(folder, backend="numpy", speed="exact")
    a, b = (modes.txt2img(m, "a cat", seed=1) for m in (model, exact))
    assert np.abs(np.asarray(a[0], int) - np.asarray(b[0], int)).max() <= 1


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_one_network_at_a_time_draws_the_same_image(folder, backend):
    if backend == "torch":
        pytest.importorskip("torch")
    free = ldmref.load(folder, backend=backend)
    want = modes.txt2img(free, "a cat", seed=1, steps=2)
    assert len(free.params._on_backend) == 3
    needs = free.estimate_memory(16, 16)
    least = needs.peak_offloaded(free.params.releasable)
    tight = ldmref.load(folder, backend=backend, max_memory=least)
    got = modes.txt2img(tight, "a cat", seed=1, steps=2)
    np.testing.assert_array_equal(got.latents, want.latents)
    assert set(tight.params._on_backend) == {"vae"}
    roomy = ldmref.load(folder, backend=backend, max_memory=needs.peak_resident)
    modes.txt2img(roomy, "a cat", seed=1, steps=2)
    assert len(roomy.params._on_backend) == 3


def test_too_little_memory_is_refused_before_any_network_is_brought(folder):
    model = ldmref.load(folder, max_memory="100MB")
    with pytest.raises(
        ResourceError, match=r"takes about 0\.\d GB, more than the 0\.1 GB"
    ) as caught:
        modes.txt2img(model, "a cat", seed=1)
    assert caught.value.code == "E-MEMORY" and caught.value.exit_code == 6
    assert not model.params._on_backend


def test_networks_that_lie_in_no_file_stay():
    model = ldmref.random_model("tiny")
    assert model.params.releasable == ()
    needs = model.estimate_memory(16, 16)
    assert needs.peak_offloaded(()) == needs.peak_resident
    model.params.release("unet")
    assert len(model.params._on_backend) == 3


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (None, None),
        (5, 5),
        (1, 1),
        ("6GB", 6 * 10**9),
        ("1.5 g", 15 * 10**8),
        ("2GiB", 2**31),
        ("7", 7),
        ("7b", 7),
        ("3k", 3000),
        ("3KiB", 3072),
        (" 4 MB ", 4 * 10**6),
        ("0.5MiB", 2**19),
        ("2TB", 2 * 10**12),
        ("1tib", 2**40),
        (2048.0, 2048),
    ],
)
def test_sizes(text, number):
    assert parse_bytes(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "6XB",
        "-1GB",
        "0",
        0,
        -3,
        "GB",
        "1,5GB",
        "3i",
        "3ib",
        "0.5",
        "0GB",
        "0.0001k",
        True,
        "1PB",
        "9" * 400,
    ],
)
def test_sizes_that_are_none(text):
    with pytest.raises(UsageError, match="max_memory must be a size such as 6GB") as caught:
        parse_bytes(text)
    assert caught.value.code == "E-MAX-MEMORY"


@pytest.mark.parametrize("limit", [None, 1e-9, 1, 3600.0])
def test_seconds(limit):
    assert check_seconds(limit) == limit


@pytest.mark.parametrize("limit", [0, 0.0, -1.0, math.inf, math.nan, "5", True])
def test_seconds_that_are_none(limit):
    with pytest.raises(UsageError) as caught:
        check_seconds(limit)
    assert caught.value.code == "E-MAX-SECONDS"


def test_the_estimate_counts_weights_exactly_and_grows_with_the_image():
    config = preset("sd15")
    ops = get_backend("numpy", dtype="float64")
    spec = model_spec(config)
    needs = estimate_memory(spec, config, ops, (512, 512))
    total = sum(int(np.prod(shape)) for shape in flatten(spec).values())
    assert sum(needs.weights.values()) == 8 * total
    larger = estimate_memory(spec, config, ops, (1024, 512), n=2)
    assert larger.sampling == 4 * needs.sampling and larger.decoding == 4 * needs.decoding
    tiled = estimate_memory(spec, config, ops, (1024, 1024), tile=256)
    assert tiled.decoding == needs.decoding
    biggest = max(needs.weights.values())
    assert (
        needs.peak_offloaded(needs.weights)
        < needs.peak_resident - sum(needs.weights.values()) + 2 * biggest
    )


def test_activations_by_hand():
    """16 channels on 8 x 8 cells, 32 on 4 x 4; the decoder ends with 16 on 16 x 16 pixels."""
    config = preset("tiny")
    ops = get_backend("numpy", dtype="float64")
    skips = 2 * 16 * 8 * 8 + 2 * 32 * 4 * 4  # per level as many as blocks, and one
    widest = (16 + 32) * 8 * 8  # what goes into an upper block: its skip and what comes from below
    needs = estimate_memory(model_spec(config), config, ops, (16, 16))
    assert needs.sampling == 2 * 8 * (skips + 4 * widest)  # with guidance, in float64
    assert needs.decoding == 8 * 4 * 16 * 16 * 16
    wide = estimate_memory(model_spec(config), config, ops, (32, 16), n=3)
    assert (wide.sampling, wide.decoding) == (6 * needs.sampling, 6 * needs.decoding)
    short = get_backend("numpy", dtype="float16")
    half = estimate_memory(model_spec(config), config, short, (16, 16))
    assert (half.sampling, half.decoding) == (needs.sampling // 4, needs.decoding // 4)
    one_level = replace(config, vae=replace(config.vae, block_out_channels=(8,)))
    assert (
        estimate_memory(model_spec(one_level), one_level, ops, (16, 16)).decoding == 8 * 4 * 8 * 256
    )


def test_tiles_bound_what_decoding_takes():
    """Twice a tile's sides at most: a tile and what it is added to."""
    config = preset("tiny")
    ops = get_backend("numpy")
    spec = model_spec(config)

    def decoding(width, height, tile=None):
        return estimate_memory(spec, config, ops, (width, height), tile=tile).decoding

    assert decoding(256, 256, 32) == decoding(64, 64)
    assert decoding(48, 32, 32) == decoding(48, 32)


def test_peaks_by_hand():
    needs = MemoryEstimate({"unet": 100, "vae": 30, "text_encoder": 50}, sampling=40, decoding=90)
    assert needs.peak_resident == PROGRAM + 180 + 90
    assert MemoryEstimate(needs.weights, 95, 90).peak_resident == PROGRAM + 180 + 95
    assert needs.peak_offloaded(()) == needs.peak_resident
    # the U-Net with its activations is the largest: 140; then the autoencoder with its: 120
    assert needs.peak_offloaded(("unet", "vae", "text_encoder")) == PROGRAM + 140
    assert needs.peak_offloaded(("vae", "text_encoder")) == PROGRAM + 100 + 120
    assert (
        needs.peak_offloaded(("text_encoder",)) == PROGRAM + 130 + 90
    )  # decoding stays the largest
    assert needs.peak_offloaded(("unet",)) == PROGRAM + 80 + 140


@pytest.mark.parametrize(
    "speed,size,most",
    [("fast", 32, 1.1), ("fast", 48, 1.2), ("fast", 64, 1.1), ("fastest", 32, 2.2)],
)
def test_the_estimate_of_transformed_kernels_bounds_what_a_run_keeps(speed, size, most):
    """Winograd's kernels replace those of layers that have pixels enough.

    More is expected of kernels with stride 2, which have no such transform, and with `fastest`,
    which takes the smaller transform where the larger does not pay.
    """
    tiny = preset("tiny")
    unet = replace(
        tiny.unet,
        block_out_channels=(64, 64, 64),
        attention_levels=(False,) * 3,
        num_heads=(2,) * 3,
        transformer_layers_per_block=(1,) * 3,
    )
    config = replace(tiny, denoiser=unet)
    ops = get_backend("numpy", speed=speed)
    model = LatentDiffusion(ops, config, init(model_spec(config)), None)
    expected = model.estimate_memory(size, size).weights["unet"]
    latents = ops.asarray(np.zeros((2, *model.latent_shape(size, size)), np.float32))
    model.unet(latents, np.zeros(2), ops.asarray(np.zeros((2, 4, 32), np.float32)))
    kept = {id(owner()): array.nbytes for owner, array in ops._cache.values()}
    leaves = flatten(model.params.unet).values()
    actual = sum(kept.get(id(leaf), leaf.nbytes) for leaf in leaves)
    assert sum(leaf.nbytes for leaf in leaves) < actual <= expected <= most * actual


PEAK = """
import sys, ldmref
from ldmref import modes
model = ldmref.load(sys.argv[1], backend="numpy", max_memory=sys.argv[2] or None)
needs = model.estimate_memory(64, 64)
def status(key):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key)) * 1024
modes.txt2img(model, "a cat", seed=1, steps=1, width=64, height=64)
print(status("VmHWM"), needs.peak_resident, needs.peak_offloaded(model.params.releasable))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' /proc")
def test_the_estimate_is_not_below_what_is_measured(folder):
    """On the tiny model the program dominates; networks are measured in test_full_size."""
    command = [sys.executable, "-c", PEAK, str(folder), ""]
    done = subprocess.run(command, capture_output=True, text=True)
    peak, together, _ = map(int, done.stdout.split())
    assert 0.2 * together < peak < together, done.stderr
