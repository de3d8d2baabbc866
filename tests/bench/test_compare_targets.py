"""The comparison of networks and targets: its settings, a whole small row, and its page."""

from __future__ import annotations

import copy
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

import ldmref
from ldmref.datasets.emoji import font as emoji_data
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import flatten
from ldmref.modes.text import encode_conditioning

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import compare_targets  # noqa: E402
import make_targets_page  # noqa: E402
from compare_targets import RowName, count_trained, draw, make_config, make_start  # noqa: E402

SETTINGS = compare_targets.read_settings()
needs_font = pytest.mark.skipif(
    not emoji_data.FONT.exists(), reason="fonts-noto-color-emoji is not on this machine"
)
ROWS = [(network, target) for network in SETTINGS["networks"] for target in SETTINGS["targets"]]


@pytest.fixture(scope="module")
def base():
    return ldmref.load("emoji", backend="torch")


def start_of(base, network, target):
    """The model with which a row begins."""
    config = make_config(base.config, SETTINGS, network, target)
    return LatentDiffusion(base.backend, config, make_start(base, config, 0), base.tokenizer)


@pytest.fixture
def small(monkeypatch):
    """The settings with a few small images, and a single prompt of each kind."""
    tables = copy.deepcopy(SETTINGS)
    tables["training"]["data"] = {"source": "small-emoji", "size": 32}
    tables["training"]["diffusion"]["optimizer"] |= {"batch_size": 2}
    tables["measure"] |= {"prompts": 1, "timesteps": 2, "levels": 2, "steps": 2, "converged": 2}
    tables["measure"] |= {"trajectories": 1}
    monkeypatch.setattr(compare_targets, "read_settings", lambda: tables)


def test_networks_are_equally_large_and_differ_in_nothing_else(base):
    configs = {row: make_config(base.config, SETTINGS, *row) for row in ROWS}
    sizes = [count_trained(config) for config in configs.values()]
    assert max(sizes) <= 1.02 * min(sizes)
    for target in SETTINGS["targets"]:
        unet, mmdit = (configs[network, target].to_dict() for network in ("unet", "mmdit"))
        assert unet["scheduler"] == mmdit["scheduler"] and unet["vae"] == mmdit["vae"]
        assert {key for key in unet if unet[key] != mmdit.get(key)} == {
            "name",
            "unet",
            "text_encoder",
        }


def test_the_text_of_both_networks_is_that_of_the_embedded_model(base):
    """The pooled vector is the state of the first token after the words."""
    prompts = ["two blue dogs", "a small cat on yellow"]
    want = base.backend.to_numpy(encode_conditioning(base, prompts, (64, 64)).context)
    models = [start_of(base, network, "v") for network in ("unet", "mmdit")]
    found = [encode_conditioning(model, prompts, (64, 64)) for model in models]
    for one in found:
        np.testing.assert_array_equal(base.backend.to_numpy(one.context), want)
    after = [len(prompt.split()) + 2 for prompt in prompts]  # the words between start and end
    pooled = base.backend.to_numpy(found[1].pooled)
    np.testing.assert_array_equal(pooled, want[[0, 1], after])


@pytest.mark.parametrize("network", SETTINGS["networks"])
def test_targets_are_sampled_from_the_same_states(base, network):
    """With networks that predict zero, all that differs is the target, and so x0 is known.

    eps = 0: x0 is x. v = 0: x0 is x / (1 + sigma^2). velocity = 0: x0 is the state on the straight
    path, x / (1 + sigma). One step of Euler's method to sigma = 0 ends there. The state is float32
    (2^-24, multiplied by 40 in the change of paths).
    """
    noise = np.random.default_rng([2, 5]).standard_normal((16, 8, 8))
    x = np.hypot(1.0, compare_targets.HIGHEST) * noise
    sigma = compare_targets.HIGHEST
    for target, share in (("eps", 1.0), ("v", 1 / (1 + sigma**2)), ("flow", 1 / (1 + sigma))):
        model = start_of(base, network, target)
        name = "conv_out" if network == "unet" else "proj_out"
        flat = flatten(model.params)
        for key in [key for key in flat if f".{name}." in key]:
            flat[key].zero_() if torch.is_tensor(flat[key]) else flat[key].fill(0.0)
        found = base.backend.to_numpy(draw(model, ["two cats"], 5, 1, "ddim", 1.0))[0]
        want = share * x
        np.testing.assert_allclose(
            found, want, rtol=0, atol=1e-5 * np.abs(want).max(), err_msg=target
        )


@needs_font
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("network", "target"), [("unet", "eps"), ("mmdit", "flow")])
def test_a_row_is_trained_measured_and_added_once(network, target, tmp_path):
    results = tmp_path / "rows.jsonl"
    args = Namespace(
        network=network, target=target, seed=3, steps=2, runs=tmp_path, results=results
    )
    compare_targets.make_row(args)
    compare_targets.make_row(args)
    (row,) = compare_targets.read_rows(results)
    assert RowName(*row["row"]) == (network, target, 2, 3)
    assert len(row["nats"]) == len(row["right"]) == 10 and len(row["squares"]) == 10
    # a network of zeros costs half a nat in each unit of log-SNR, from 0.01 to 40
    assert 0.0 < np.mean(row["nats"]) < np.log(40 / 0.01)
    assert (tmp_path / RowName(network, target, 2, 3).folder / "model").is_dir()
    text = "".join(f"<!-- table: {name} -->\n<!-- end -->\n" for name in make_targets_page.TABLES)
    rows = [row, {**row, "row": ["unet", "v", 2, 3]}]
    assert f"| {make_targets_page.NAMES[network]} | {target} |" in make_targets_page.fill(
        text, rows
    )


def test_the_page_shows_the_stored_results():
    page = make_targets_page.PAGE.read_text("utf-8")
    assert make_targets_page.fill(page, compare_targets.read_rows(compare_targets.RESULTS)) == page


def test_a_difference_is_paired():
    """Of prompts that differ far more than the two lines do."""
    hard = np.random.default_rng(0).standard_normal(100)
    reference = [{"row": ["unet", "v", 1, seed], "nats": hard.tolist()} for seed in (0, 1)]
    ours = [{"row": ["unet", "eps", 1, 0], "nats": (hard + 0.01).tolist()}]
    assert make_targets_page.format_nats(ours, reference)[2] == "+0.0100 (+0.0100 to +0.0100)"
