"""Both sides of each kind of case on the smallest model: the same outputs, or a refusal."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import child_process, compare
from benchmarks.cases import CASES, BenchmarkCase, resized
from benchmarks.compare import SIDES, relative_error, run_case
from benchmarks.peers import peer_network, peer_workload
from benchmarks.profile import OTHER, count_flops, measure_scaling, profile_work, trace
from ldmref.backends import get_backend
from ldmref.backends.numpy import NumpyBackend
from ldmref.errors import BackendUnavailable, LdmrefError, UsageError, VerifyError
from ldmref.models.params import flatten

GEMM_SIZES = (64,)


BLOCKS = [name for name, case in CASES.items() if case.is_block]


def quick(name, **fields):
    return dataclasses.replace(resized(CASES[name], quick=True), **fields)


UNET = quick("unet-numpy-32")


def model_and_inputs(case):
    model = case.make_model()
    return model, case.make_inputs(model)


@pytest.mark.parametrize("name", ["unet-numpy-32", "unet-torch-64", "vae-torch", "clip-numpy"])
def test_networks_beside_their_peers(single_call_rounds, peers, name):
    case = quick(name)
    result = run_case(case, 2, GEMM_SIZES)
    assert 0 <= result["error"] < 1e-4 and result["flops"] > 1e5 and result["unit"] == "s"
    assert len(result["ours"]["values"]) == len(result["theirs"]["values"]) == 2
    assert result["ours"]["gflops"] == result["flops"] / result["ours"]["median"] / 1e9
    peak = max(result["peak"].values())
    assert result["theirs"]["share"] == pytest.approx(result["theirs"]["gflops"] / peak)
    assert set(result["peak"]) == {"numpy", "torch"}
    assert result["target"] == case.target and json.dumps(result)


@pytest.mark.parametrize("name", [name for name in BLOCKS if CASES[name].measured == "time"])
def test_blocks_beside_their_peers(single_call_rounds, peers, name):
    case = quick(name)
    pytest.importorskip(case.backend)
    result = run_case(case, 1, GEMM_SIZES)
    assert 0 <= result["error"] < 1e-6 and result["flops"] > 1e6


def test_the_work_of_a_block_is_that_of_its_products():
    """Products count by rows and widths, attention by pairs of tokens."""
    case = quick("flux-single-numpy")
    model, inputs = model_and_inputs(case)
    tokens, width = 256 + 8 * 8, 24
    products = 2 * tokens * width * (3 * width + 4 * width + 5 * width) + 2 * width * 3 * width
    assert count_flops(case, model, inputs) == products + 4 * tokens**2 * width


def test_blocks_are_compared_with_text_and_image_in_place(peers):
    case = quick("sd3-joint-numpy")
    model, inputs = model_and_inputs(case)
    ours = case.make_workload(model, inputs).output()
    turned = np.roll(ours, 333, axis=1)
    assert ours.shape == (1, 333 + 64, 16)
    theirs = peer_workload(case, model, inputs).output()
    assert relative_error(ours, theirs) < 1e-6 < 0.1 < relative_error(turned, theirs)


@pytest.mark.parametrize(("name", "error"), [("train-unet", 1e-5), ("train-unet-bf16", 0.1)])
def test_training_steps_beside_plain_modules(single_call_rounds, peers, monkeypatch, name, error):
    from benchmarks import training

    optimizer = dataclasses.replace(training.OPTIMIZER, batch_size=2)
    monkeypatch.setattr(training, "STAGE", dataclasses.replace(training.STAGE, optimizer=optimizer))
    case = quick(name)
    result = run_case(case, 1, GEMM_SIZES)
    assert 0 <= result["error"] < error and result["flops"] > 1e6
    assert "training step" in result["title"] and result["unit"] == "s"


def test_latents_are_scaled_on_both_sides(peers):
    """The smallest model's own factor is 1, which would hide an error."""
    case = quick("vae-numpy")
    model, inputs = model_and_inputs(case)
    vae = dataclasses.replace(model.config.vae, scaling_factor=0.25)
    model.config = dataclasses.replace(model.config, vae=vae)
    ours = case.make_workload(model, inputs).output()
    assert relative_error(ours, peer_workload(case, model, inputs).output()) < 1e-4


def test_half_precision_beside_its_peer(single_call_rounds, peers):
    """Both sides compute in bfloat16: their outputs are rounded to it, and less exact."""
    case = quick("unet-torch-bf16")
    result = run_case(case, 1, GEMM_SIZES)
    assert 0 <= result["error"] < 0.05 and set(result["peak"]) == {"torch"}
    exact = UNET.make_workload(*model_and_inputs(UNET)).output()
    model, inputs = model_and_inputs(case)
    for make_workload in (BenchmarkCase.make_workload, peer_workload):
        y = make_workload(case, model, inputs).output()
        assert y.dtype == np.float32 and not np.any(y.view(np.uint32) & 0xFFFF)
        assert 1e-3 < relative_error(y, exact) < 0.05


def test_whole_images_beside_their_peers(single_call_rounds, peers):
    case = quick("gpu-torch", device="cpu", dtype="float32", tolerance=2 / 255 + 1e-6)
    result = run_case(case, 1, GEMM_SIZES)
    # two texts, two steps at batch 2, one decoding
    assert result["flops"] > 2 * count_flops(UNET, *model_and_inputs(UNET))


class Wrong(NumpyBackend):
    """One operation is too large by a hundredth."""

    def linear(self, x, weight, bias=None):
        return super().linear(x, weight, bias) * 1.01


def test_sides_that_differ_are_refused_before_any_time_is_taken(peers, monkeypatch):
    monkeypatch.setattr("benchmarks.cases.get_backend", lambda *_, **__: Wrong())
    monkeypatch.setattr(compare, "time_alternately", None)  # would fail if it were called
    with pytest.raises(VerifyError, match="unet-numpy-32: the two sides differ by") as caught:
        run_case(UNET, 1, GEMM_SIZES)
    assert caught.value.exit_code == 4


def test_weights_are_shared_with_the_peer(peers):
    model = UNET.make_model()
    unet = peer_network("unet", model)
    assert np.shares_memory(unet.conv_in.weight.numpy(), model.params.unet.conv_in.weight)
    assert not any(p.requires_grad for p in unet.parameters())


def test_missing_peers_and_devices_are_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(BackendUnavailable, match="needs diffusers") as caught:
        run_case(UNET, 1, GEMM_SIZES)
    assert "pip install" in caught.value.hint
    monkeypatch.undo()
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="CUDA"):
        run_case(quick("gpu-torch"), 1, GEMM_SIZES)


def test_a_cases_speed_is_passed_to_the_backend(monkeypatch):
    speeds = []

    def fake(name, device, dtype, speed):
        speeds.append(speed)
        return NumpyBackend()

    monkeypatch.setattr("benchmarks.cases.get_backend", fake)
    CASES["unet-torch-compiled-32"].make_backend()
    CASES["unet-torch-32"].make_backend()
    assert speeds == ["fastest", None]


def test_memory_of_a_process(peers, tmp_path):
    """Both sides in one round: the images agree, and the peak is above the memory before."""
    result = run_case(quick("memory-numpy", size=16, steps=1), 1, GEMM_SIZES)
    assert result["unit"] == "B" and result["error"] <= 2 / 255 + 1e-6
    for side in SIDES:
        (peak,) = result[side]["values"]
        (before,) = result[side]["before"]
        assert 2**24 < before <= peak < 2**34


def test_memory_of_a_block(peers):
    result = run_case(quick("memory-single-numpy"), 1, GEMM_SIZES)
    assert result["unit"] == "B" and result["error"] < 1e-6
    assert result["ours"]["values"][0] < result["theirs"]["values"][0]  # no torch in the process


def test_the_peak_counts_from_its_reset():
    code = (
        "import sys, numpy as np\n"
        "from benchmarks.child_process import reset_peak, resident_bytes\n"
        "x = np.ones(2**25); del x\n"
        "before = reset_peak()\n"
        "a = resident_bytes('VmHWM') - before\n"
        "y = np.ones(2**23)\n"
        "b = resident_bytes('VmHWM') - before\n"
        "sys.exit(f'{a} {b}' if not (a < 2**25 and 2**25 < b < 2**27) else 0)"
    )
    if not child_process.CLEAR_REFS.exists():
        pytest.skip("this kernel has no resettable counter")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_a_failing_process_is_one_line():
    with pytest.raises(LdmrefError, match="ValueError: no such thing"):
        compare.run_process([sys.executable, "-c", "raise ValueError('no such thing')"])


def test_embedded_model_from_process_start(peers, tmp_path):
    """The diffusers program generates ldmref's image."""
    case = quick("embedded")
    compare.save_model(case, tmp_path)
    for side in SIDES:
        assert compare.run_process(compare.process_command(case, side, tmp_path))[0] > 0.1
    ours, theirs = (compare.read_output(case, tmp_path, side) for side in SIDES)
    assert ours.shape == (1, 128, 128, 3) and ours.std() > 0.05
    assert relative_error(ours, theirs) <= 2 / 255 + 1e-6


def test_the_child_process_imports_nothing_of_ldmref_or_large():
    """The start of the diffusers program is timed: it pays for its own imports only."""
    code = (
        "import runpy, sys\n"
        f"runpy.run_path({str(compare.PROCESS)!r})\n"
        "sys.exit(str({'ldmref', 'numpy', 'torch', 'PIL'} & set(sys.modules) or ''))"
    )
    ran = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert ran.stderr.strip() == ""


def test_processes_alternate_after_one_round_for_the_caches(peers, monkeypatch):
    order = []
    offset = [0]

    def run_process(argv):
        file = Path(next(word for word in argv if word.endswith(".png")))
        order.append(file.stem)
        ours = file.stem == "ours"
        Image.new("RGB", (4, 4), (200 + offset[0] * ours,) * 3).save(file)
        return (1.0 if ours else 4.0), ""

    monkeypatch.setattr(compare, "run_process", run_process)
    monkeypatch.setattr(compare, "save_model", lambda *_: None)
    result = run_case(quick("embedded"), 2)
    assert order == ["ours", "theirs"] * 3 and result["ratio"]["median"] == 0.25
    assert result["ours"]["values"] == [1.0, 1.0] and result["error"] == 0
    offset[0] = 20
    with pytest.raises(VerifyError, match="embedded"):
        run_case(quick("embedded"), 2)


def test_profile_accounts_for_all_of_the_time():
    profile = profile_work(UNET)
    for lines in (profile["kinds"], profile["shapes"], profile["layers"]):
        assert sum(line["seconds"] for line in lines) == pytest.approx(profile["seconds"])
        assert sum(line["share"] for line in lines) == pytest.approx(1)
        assert lines[-1]["name"] == OTHER and lines[-1]["seconds"] > 0
    kinds = {line["name"]: line for line in profile["kinds"]}
    assert kinds["conv2d"]["calls"] == sum(
        line["calls"] for line in profile["shapes"] if line["name"] == "conv2d"
    )
    assert profile["flops"] == count_flops(UNET, *model_and_inputs(UNET))
    shapes = "2x4x16x16 * 16x4x3x3 ->"
    assert any(line["shapes"].startswith(shapes) for line in profile["shapes"])
    layers = {line["name"] for line in profile["layers"][:-1]}
    known = {name.rpartition(".")[0] for name in flatten(UNET.make_model().params.unet)}
    assert known <= layers
    for module in layers - known:  # of attention, silu, upsampling
        assert any(name.startswith(f"{module}.") for name in known), module
    assert "up_blocks.1.attentions.0.transformer_blocks.0.attn1" in layers


def test_layers_of_several_networks_have_the_networks_names():
    profile = profile_work(quick("memory-numpy", measured="time"))
    layers = {line["name"].replace("text_model.", "") for line in profile["layers"]}
    assert {"unet.conv_in", "vae.post_quant_conv", "vae.decoder.conv_in"} <= layers
    assert "text_encoder.encoder.layers.0.mlp.fc1" in layers


def test_scaling(single_call_rounds):
    small, large = measure_scaling(UNET, "resolution", (16, 32), 1)
    assert small["exponent"] is None and large["exponent"] is not None
    assert 3 < large["flops"] / small["flops"] < 16  # convolutions by 4, attention by 16
    one, two = measure_scaling(UNET, "batch", (1, 2), 1)
    assert two["flops"] == 2 * one["flops"] and two["value"] == 2
    one, two, three = measure_scaling(UNET, "steps", (1, 2, 3), 1)
    assert three["flops"] - two["flops"] == two["flops"] - one["flops"] > 0
    with pytest.raises(UsageError):
        list(measure_scaling(quick("clip-numpy"), "batch", (1, 2), 1))


def test_the_traced_model_computes_the_same():
    model, inputs = model_and_inputs(UNET)
    traced, records = trace(model)
    a, b = (UNET.make_workload(m, inputs).output() for m in (model, traced))
    assert relative_error(a, b) == 0 and records
    assert isinstance(model.backend, type(get_backend("numpy")))
