"""Averaged weights in the files of a training run: names, which are read, what is left out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.errors import KeyMismatchError, UsageError
from ldmref.io.checkpoint import read_model_config
from ldmref.io.compvis.keys import compvis_table
from ldmref.io.compvis.whole_file import FAMILIES, ema_name, ema_table
from ldmref.io.key_table import to_compvis
from ldmref.io.native import SCHEMA
from ldmref.io.single_file import recognise_file
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.models.config import TextConfig
from ldmref.models.model import model_spec
from ldmref.models.params import flatten, init
from ldmref.models.presets import PRESETS

CONFIG = PRESETS["tiny"]  # with CLIP, as Stable Diffusion
LDM = replace(  # without, as latent diffusion's models
    CONFIG,
    name="ldm",
    denoiser=replace(CONFIG.unet, attention="self", cross_attention_dim=0),
    text_encoder=TextConfig(model_type="none", num_hidden_layers=1),
)
TABLE = compvis_table(CONFIG)
LAST, MEAN, LDM_LAST, LDM_MEAN = (
    flatten(init(model_spec(config), seed)) for config in (CONFIG, LDM) for seed in (1, 2)
)
UPDATES = "model_ema.num_updates"
DECAY = "model_ema.decay"
NAME = "model_ema.diffusion_modelout2weight"


def tensors(config=CONFIG, **changes):
    """Return a training run's file: last weights, averages of the U-Net's, their two numbers."""
    table = compvis_table(config)
    last, mean = (LAST, MEAN) if config is CONFIG else (LDM_LAST, LDM_MEAN)
    found = to_compvis(last, table)
    unet = {n: t for n, t in to_compvis(mean, table).items() if n.startswith("model.")}
    found |= {"model_ema." + n[len("model.") :].replace(".", ""): t for n, t in unet.items()}
    found["model_ema.decay"] = np.float32(0.9999)
    found["model_ema.num_updates"] = np.int32(7)
    return found | changes


def write(path, found):
    write_tensors(path, {n: source(np.asarray(t)) for n, t in found.items()})
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("ema") / "run.safetensors", tensors())


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Configuration and tokenizer, which a single file of our own size does not tell."""
    folder = tmp_path_factory.mktemp("told")
    (folder / "config.json").write_text(json.dumps({"schema": SCHEMA} | CONFIG.to_dict()))
    model = ldmref.random_model("tiny", backend="numpy")
    model.tokenizer.tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def read(path, ema=None, config=CONFIG):
    return recognise_file(TensorFile(path), config, ema).read()


def holds(flat, unet):
    rest = LDM_LAST if unet is LDM_MEAN or unet is LDM_LAST else LAST
    return all(
        np.array_equal(t, (unet if n.startswith("unet.") else rest)[n]) for n, t in flat.items()
    )


def test_stable_diffusion_is_read_without_its_averages(file):
    """As its configurations say (use_ema: False), and as diffusers and others do."""
    assert holds(read(file), LAST) and holds(read(file, False), LAST)
    assert holds(read(file, True), MEAN)
    chosen = [recognise_file(TensorFile(file), CONFIG, e).averaged for e in (None, True, False)]
    assert chosen == [False, True, False]


def test_latent_diffusion_is_read_with_its_averages(tmp_path):
    """As its scripts do (`ema_scope`) unless the configuration says otherwise."""
    path = write(tmp_path / "ldm.safetensors", tensors(LDM))
    assert holds(read(path, None, LDM), LDM_MEAN) and holds(read(path, True, LDM), LDM_MEAN)
    assert holds(read(path, False, LDM), LDM_LAST)
    chosen = [recognise_file(TensorFile(path), LDM, e).averaged for e in (None, True, False)]
    assert chosen == [True, True, False]


# Families whose configuration leaves `use_ema` at its default, True (CompVis/latent-diffusion,
# models/ldm/*/config.yaml); cin256-v2.yaml and txt2img-1p4B-eval.yaml set it to False.
AVERAGED = """
    ldm-unconditional ldm-churches ldm-text2img256 ldm-inpainting ldm-superres ldm-semantic
""".split()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_found_with_what_its_makers_draw_with(name):
    class Shapes:
        """A training run's file of which only names and shapes are asked for."""

        def __init__(self, table):
            entries = [*table.values(), *ema_table(table).values()]
            self.shapes = {e.name: e.stored_shape for e in entries} | {UPDATES: ()}
            self.metadata = {"modelspec.prediction_type": "v" if name == "sd2-v" else ""}
            self.path = type("Path", (), {"name": "file"})
            self.squeezed = False

        def __iter__(self):
            return iter(self.shapes)

        def __contains__(self, wanted):
            return wanted in self.shapes

        def __getitem__(self, wanted):
            assert wanted == UPDATES
            return np.int32(3)

    file = Shapes(compvis_table(PRESETS[name]))
    if name == "sd2-base":
        file.metadata = {"modelspec.prediction_type": "epsilon"}
    found = recognise_file(file)
    assert found.config == PRESETS[name]
    assert found.averaged is (name in AVERAGED)
    read = "averages" if name in AVERAGED else "last weights"
    assert f"the {read} are read" in "".join(found.warnings)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_weight_of_the_u_net_has_an_average_of_its_own(name):
    table = compvis_table(PRESETS[name])
    averaged = ema_table(table)
    changed = {ours for ours in table if averaged[ours] != table[ours]}
    assert changed == {ours for ours in table if ours.startswith("unet.")}
    stored = {table[ours].name for ours in changed}
    assert len({ema_name(n) for n in stored}) == len(stored)
    assert all("." not in averaged[o].name.removeprefix("model_ema.") for o in changed)
    assert all(averaged[o].stored_shape == table[o].stored_shape for o in table)


def test_files_without_averages(tmp_path):
    found = {n: t for n, t in tensors().items() if not n.startswith("model_ema.")}
    plain = write(tmp_path / "plain.safetensors", found)
    numbers = {n: t for n, t in tensors().items() if n in ("model_ema.decay",)}
    counted = write(tmp_path / "counted.safetensors", found | numbers)
    for path in (plain, counted):
        chosen = [recognise_file(TensorFile(path), CONFIG, e).averaged for e in (None, False)]
        assert chosen == [None, None] and recognise_file(TensorFile(path), CONFIG).warnings == ()
        assert holds(read(path), LAST) and holds(read(path, False), LAST)
        with pytest.raises(UsageError, match="holds no averaged weights"):
            read(path, True)


def test_files_with_nothing_but_averages(tmp_path):
    found = {n: t for n, t in tensors().items() if not n.startswith("model.")}
    path = write(tmp_path / "only.safetensors", found)
    assert holds(read(path), MEAN)
    with pytest.raises(KeyMismatchError, match="missing"):
        read(path, False)


def test_averages_that_were_never_updated_are_not_taken_unasked(tmp_path):
    """They are what training began with."""
    for updates, unet in ((0, LDM_LAST), (-1, LDM_MEAN)):  # -1: not counted
        path = write(tmp_path / f"{updates}.st", tensors(LDM, **{UPDATES: np.int32(updates)}))
        assert holds(read(path, None, LDM), unet) and holds(read(path, True, LDM), LDM_MEAN)


@pytest.mark.parametrize("config", [CONFIG, LDM])
@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda f: f.pop(NAME), f"1 missing ({NAME})"),
        (lambda f: f.update({NAME: np.zeros(3)}), f"1 misshapen ({NAME} is (3,)"),
        (lambda f: f.update({NAME + "x": np.zeros(3)}), f"1 unexpected ({NAME}x)"),
    ],
)
def test_averages_that_do_not_fit_are_not_read_and_refused_with_a_list(
    tmp_path, change, word, config
):
    """They are refused if asked for; otherwise the last weights are whole without them."""
    found = tensors(config)
    change(found)
    path = write(tmp_path / "a.safetensors", found)
    with pytest.raises(KeyMismatchError) as caught:
        read(path, True, config)
    assert word in str(caught.value) and "--no-ema" in caught.value.hint
    last = LAST if config is CONFIG else LDM_LAST
    assert holds(read(path, False, config), last) and holds(read(path, None, config), last)
    (note,) = recognise_file(TensorFile(path), config).warnings
    assert "incomplete set" in note and "the last weights are read" in note and "--" not in note


def test_a_note_tells_what_is_read(tmp_path, file):
    ldm = write(tmp_path / "ldm.safetensors", tensors(LDM))
    for path, config, told in (
        (file, CONFIG, "the last weights are read: --ema"),
        (ldm, LDM, "the averages are read: --no-ema"),
    ):
        (note,) = recognise_file(TensorFile(path), config).warnings
        assert told in note


def test_what_is_not_read_is_listed(file):
    shapes = TensorFile(file).shapes
    numbers = {"model_ema.decay", "model_ema.num_updates"}
    last = {n for n in shapes if n.startswith("model.")}
    mean = {n for n in shapes if n.startswith("model_ema.")}
    reports = [recognise_file(TensorFile(file), CONFIG, ema).report for ema in (True, False)]
    assert set(reports[0].ignored) == last | numbers
    assert set(reports[1].ignored) == mean
    for report in reports:
        assert report.fits and set(report.used) | set(report.ignored) == set(shapes)


def test_an_image_records_which_weights_drew_it(file, told):
    images = []
    for ema in (None, True, False):
        options = {
            "config": told,
            "tokenizer": told / "tokenizer.json",
            "backend": "numpy",
            "ema": ema,
        }
        r = modes.txt2img(ldmref.load(file, **options), "a cat", seed=1, steps=1)
        assert r.params["model"]["ema"] is (ema is True)
        assert any("averaged weights" in w for w in r.warnings) == (ema is None)
        images.append(r.latents)
    assert (images[0] == images[2]).all() and not (images[0] == images[1]).all()
    with pytest.raises(UsageError, match="is a folder"):
        ldmref.load(ema=True)


def test_command_line(file, told, tmp_path, monkeypatch, capsys):
    """convert, txt2img and run choose the same weights and report those left out."""
    monkeypatch.chdir(tmp_path)
    given = ["--model-config", str(told), "--tokenizer", str(told / "tokenizer.json")]
    common = ["-p", "cat", "--seed", "1", "--steps", "1", *given]
    drawn = {}
    unused = sum(name.startswith("unet.") for name in TABLE) + 2
    for flags, weights in (((), LAST), (("--ema",), MEAN), (("--no-ema",), LAST)):
        key = "".join(flags).strip("-") or "none"
        one = f"{key}.safetensors"
        assert main(["convert", str(file), one, *given, *flags]) == 0
        said = capsys.readouterr().err
        read_as = "the last weights" if weights is LAST else "the averaged weights (EMA)"
        assert f"read {read_as}" in said and f"left out {unused} tensors: model" in said
        flat = read(tmp_path / one)
        assert holds(flat, weights) and not any("ema" in n for n in TensorFile(tmp_path / one))
        out = f"{key}.png"
        assert main(["txt2img", "-m", str(file), *common, *flags, "-o", out]) == 0
        drawn[key] = (tmp_path / out).read_bytes()
        assert ("also holds averaged weights" in capsys.readouterr().err) == (not flags)
        again = ["run", "--from", out, "-m", str(file), *given, "-o", "again.png", "--overwrite"]
        assert main(again) == 0
        assert "warning" not in capsys.readouterr().err
        assert (tmp_path / "again.png").read_bytes() == drawn[key]
    assert drawn["none"] == drawn["no-ema"] != drawn["ema"]
    opposite = ["run", "--from", "ema.png", "-m", str(file), *given, "--no-ema", "-o", "o.png"]
    assert main(opposite) == 0
    assert "generated with another --ema: the image records true" in capsys.readouterr().err


def test_a_measured_scaling_factor_is_not_lost(file, tmp_path, monkeypatch, capsys):
    """A factor in a file is read, not "left out", and convert writes it."""
    from ldmref.io.compvis import whole_file as compvis

    monkeypatch.setattr(compvis, "FAMILIES", ("tiny",))
    monkeypatch.chdir(tmp_path)
    for value in (np.float32(0.3), np.float64(0.3), np.float32(CONFIG.vae.scaling_factor)):
        found = to_compvis(LAST, TABLE) | {"scale_factor": np.asarray(value)}
        path = write(tmp_path / f"{value.dtype}{value:.1f}.safetensors", found)
        out = "out-" + path.name
        assert main(["convert", path.name, out]) == 0
        assert "left out" not in capsys.readouterr().err
        written = TensorFile(tmp_path / out)
        assert ("scale_factor" in written) == (value != CONFIG.vae.scaling_factor)
        for name in (path.name, out):
            config = read_model_config(name)
            assert config.vae.scaling_factor == float(value)


def test_info_tells_which_weights_are_read(tmp_path, monkeypatch, capsys):
    from ldmref.io.compvis import whole_file as compvis

    monkeypatch.setattr(compvis, "FAMILIES", ("tiny",))
    path = write(tmp_path / "run.safetensors", tensors())
    assert main(["info", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["fits"] and facts["ema"] is False
    assert {DECAY, NAME} <= set(facts["unused"])
    assert main(["info", str(path)]) == 0
    assert "reads the last weights" in capsys.readouterr().out
