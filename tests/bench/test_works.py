"""Both sides of each kind of row on the smallest model: the same numbers, or a refusal."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.backends.numpy import NumpyBackend
from ldmref.bench import child, processes, run
from ldmref.bench.grow import grow
from ldmref.bench.measure import difference
from ldmref.bench.peers import network, theirs
from ldmref.bench.profile import OTHER, profile
from ldmref.bench.rows import ROWS, quickly
from ldmref.bench.works import backend_of, inputs_of, model_of, ours
from ldmref.errors import BackendUnavailable, LdmrefError, UsageError, VerifyError
from ldmref.models.params import flatten

TINY = (64,)  # of the matrix products
UNET = quickly(ROWS["unet-numpy-32"])


def changed(row, **fields):
    return dataclasses.replace(quickly(ROWS[row]), **fields)


@pytest.fixture
def brief(monkeypatch):
    """Turns that take no longer than they must."""
    monkeypatch.setattr("ldmref.bench.measure.LEAST", 0.0)


@pytest.fixture
def peers():
    """torch, diffusers and transformers, which the peers need."""
    for library in ("torch", "diffusers", "transformers"):
        pytest.importorskip(library)


@pytest.mark.parametrize("name", ["unet-numpy-32", "unet-torch-64", "vae-torch", "clip-numpy"])
def test_networks_beside_their_peers(brief, peers, name):
    row = quickly(ROWS[name])
    record = run.run(row, 2, TINY)
    assert 0 <= record["error"] < 1e-4 and record["flops"] > 1e5 and record["unit"] == "s"
    assert len(record["ours"]["values"]) == len(record["theirs"]["values"]) == 2
    assert record["ours"]["gflops"] == record["flops"] / record["ours"]["median"] / 1e9
    best = max(record["peak"].values())
    assert record["theirs"]["share"] == pytest.approx(record["theirs"]["gflops"] / best)
    assert set(record["peak"]) == {"numpy", "torch"}
    assert record["target"] == row.target and json.dumps(record)


def test_latents_are_scaled_on_both_sides(peers):
    """The smallest model's own factor is 1, which would hide it."""
    row = quickly(ROWS["vae-numpy"])
    model, given = model_and_inputs(row)
    vae = dataclasses.replace(model.config.vae, scaling_factor=0.25)
    model.config = dataclasses.replace(model.config, vae=vae)
    mine, other = ours(row, model, given), theirs(row, model, given)
    assert difference(mine.host(mine.call()), other.host(other.call())) < 1e-4


def test_short_types_beside_their_peers(brief, peers):
    """Both sides compute in the short type: what they give is rounded to it, and less exact."""
    row = quickly(ROWS["unet-torch-bf16"])
    record = run.run(row, 1, TINY)
    assert 0 <= record["error"] < 0.05 and set(record["peak"]) == {"torch"}
    exact = ours(UNET, *model_and_inputs(UNET))
    want = exact.host(exact.call())
    model, given = model_and_inputs(row)
    for side in (ours(row, model, given), theirs(row, model, given)):
        y = side.host(side.call())
        assert y.dtype == np.float32 and not np.any(y.view(np.uint32) & 0xFFFF)
        assert 1e-3 < difference(y, want) < 0.05


def test_whole_pictures_beside_their_peers(brief, peers):
    row = changed("gpu-torch", device="cpu", dtype="float32", tolerance=2 / 255 + 1e-6)
    record = run.run(row, 1, TINY)
    # two texts, two steps at batch 2, one decoding
    assert record["flops"] > 2 * run.count_flops(UNET, *model_and_inputs(UNET))


def model_and_inputs(row):
    model = model_of(row)
    return model, inputs_of(row, model)


class Wrong(NumpyBackend):
    """One operation a hundredth too large."""

    def linear(self, x, weight, bias=None):
        return super().linear(x, weight, bias) * 1.01


def test_sides_that_differ_are_refused_before_any_time_is_taken(peers, monkeypatch):
    monkeypatch.setattr("ldmref.bench.works.get_backend", lambda *_, **__: Wrong())
    monkeypatch.setattr("ldmref.bench.run.time_in_turn", None)  # would fail if it were called
    with pytest.raises(VerifyError, match="unet-numpy-32: the two sides differ by") as caught:
        run.run(UNET, 1, TINY)
    assert caught.value.exit_code == 4


def test_weights_are_shared_with_the_peer(peers):
    model = model_of(UNET)
    made = network("unet", model)
    assert np.shares_memory(made.conv_in.weight.numpy(), model.params.unet.conv_in.weight)
    assert not any(p.requires_grad for p in made.parameters())


def test_missing_peers_and_devices_are_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(BackendUnavailable, match="needs diffusers") as caught:
        run.run(UNET, 1, TINY)
    assert "pip install" in caught.value.hint
    monkeypatch.undo()
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="CUDA"):
        run.run(quickly(ROWS["gpu-torch"]), 1, TINY)


def test_a_rows_speed_is_handed_to_the_backend(monkeypatch):
    told = []

    def fake(name, device, dtype, speed):
        told.append(speed)
        return NumpyBackend()

    monkeypatch.setattr("ldmref.bench.works.get_backend", fake)
    backend_of(ROWS["unet-torch-compiled-32"])
    backend_of(ROWS["unet-torch-32"])
    assert told == ["fastest", None]


def test_memory_of_a_process(peers, tmp_path):
    """Both sides in one round: what is drawn agrees, and the peak is above what was held before."""
    record = run.run(changed("memory-numpy", size=16, steps=1), 1, TINY)
    assert record["unit"] == "B" and record["error"] <= 2 / 255 + 1e-6
    for side in ("ours", "theirs"):
        (peak,), (before,) = record[side]["values"], record[side]["before"]
        assert 2**24 < before <= peak < 2**34


def test_the_peak_is_of_the_drawing_alone():
    code = (
        "import sys, numpy as np\nfrom ldmref.bench.child import forget_peak, resident\n"
        "x = np.ones(2**25); del x\n"
        "before = forget_peak()\n"
        "a = resident('VmHWM') - before\ny = np.ones(2**23)\nb = resident('VmHWM') - before\n"
        "sys.exit(f'{a} {b}' if not (a < 2**25 and 2**25 < b < 2**27) else 0)"
    )
    if not child.CLEAR.exists():
        pytest.skip("this kernel keeps no mark that can be set back")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_a_failing_process_is_one_line(tmp_path):
    with pytest.raises(LdmrefError, match="ValueError: no such thing"):
        processes.run([sys.executable, "-c", "raise ValueError('no such thing')"])


def test_embedded_model_from_process_start(peers, tmp_path):
    """The script of diffusers draws ldmref's picture."""
    start = processes.Start(quickly(ROWS["embedded"]), tmp_path)
    assert start.seconds("ours") > 0.1 and start.seconds("theirs") > 0.1
    picture = start.picture("ours")
    assert picture.shape == (1, 64, 64, 3) and picture.std() > 0.05
    assert difference(picture, start.picture("theirs")) <= 2 / 255 + 1e-6


def test_processes_run_in_turn_after_one_round_for_the_caches(peers, monkeypatch):
    order, error = [], [0.001]

    class Fake:
        def __init__(self, row, folder):
            pass

        def seconds(self, side):
            order.append(side)
            return {"ours": 1.0, "theirs": 4.0}[side]

        def picture(self, side):
            return np.full(3, 1.0 if side == "ours" else 1.0 + error[0])

    monkeypatch.setattr(run, "Start", Fake)
    record = run.run(quickly(ROWS["embedded"]), 2)
    assert order == ["ours", "theirs"] * 3 and record["ratio"]["median"] == 0.25
    error[0] = 0.1
    with pytest.raises(VerifyError, match="embedded"):
        run.run(quickly(ROWS["embedded"]), 2)


def test_profile_accounts_for_all_of_the_time():
    found = profile(UNET)
    for lines in (found["kinds"], found["shapes"], found["layers"]):
        assert sum(line["seconds"] for line in lines) == pytest.approx(found["seconds"])
        assert sum(line["share"] for line in lines) == pytest.approx(1)
        assert lines[-1]["name"] == OTHER and lines[-1]["seconds"] > 0
    kinds = {line["name"]: line for line in found["kinds"]}
    assert kinds["conv2d"]["calls"] == sum(
        line["calls"] for line in found["shapes"] if line["name"] == "conv2d"
    )
    assert found["flops"] == run.count_flops(UNET, *model_and_inputs(UNET))
    assert any(line["shapes"].startswith("2x4x16x16 * 16x4x3x3 ->") for line in found["shapes"])
    layers = {line["name"] for line in found["layers"][:-1]}
    known = {name.rpartition(".")[0] for name in flatten(model_of(UNET).params.unet)}
    assert known <= layers
    for around in layers - known:  # of attention, silu, upsampling
        assert any(name.startswith(f"{around}.") for name in known), around
    assert "up_blocks.1.attentions.0.transformer_blocks.0.attn1" in layers


def test_layers_of_several_networks_bear_the_networks_names():
    found = {line["name"] for line in profile(changed("memory-numpy", measured="time"))["layers"]}
    assert {"unet.conv_in", "vae.post_quant_conv", "vae.decoder.conv_in"} <= found
    assert "text_encoder.encoder.layers.0.mlp.fc1" in {
        name.replace("text_model.", "") for name in found
    }


def test_cost_grows(brief):
    small, large = grow(UNET, "resolution", (16, 32), 1)
    assert small["exponent"] is None and large["exponent"] is not None
    assert 3 < large["flops"] / small["flops"] < 16  # convolutions by 4, attention by 16
    one, two = grow(UNET, "batch", (1, 2), 1)
    assert two["flops"] == 2 * one["flops"] and two["value"] == 2
    one, two, three = grow(UNET, "steps", (1, 2, 3), 1)
    assert three["flops"] - two["flops"] == two["flops"] - one["flops"] > 0
    with pytest.raises(UsageError):
        list(grow(quickly(ROWS["clip-numpy"]), "batch", (1, 2), 1))


def test_the_traced_side_computes_the_same():
    model, given = model_and_inputs(UNET)
    plain, seen = ours(UNET, model, given), ours(UNET, run.traced_model(model), given)
    a, b = plain.host(plain.call()), seen.host(seen.call())
    assert difference(a, b) == 0 and model.backend is not None
    assert isinstance(model.backend, type(get_backend("numpy")))
