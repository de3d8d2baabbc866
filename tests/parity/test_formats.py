"""CompVis names: a bijection, and the one that diffusers' own converters know."""

from __future__ import annotations

import numpy as np
import pytest
from checkpoint_folders import load_diffusers
from safetensors.numpy import save_file

from ldmref.errors import InputError, KeyMismatchError, UsageError
from ldmref.io.compvis.keys import compvis_table
from ldmref.io.compvis.whole_file import FAMILIES, ema_table
from ldmref.io.key_table import to_compvis, to_native
from ldmref.io.single_file import recognise_file
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.models.model import model_spec
from ldmref.models.params import flatten
from ldmref.models.presets import PRESETS

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_has_exactly_one_place(name):
    config = PRESETS[name]
    table = compvis_table(config)
    want = flatten(model_spec(config))
    assert set(table) == set(want)
    assert {n: e.shape for n, e in table.items()} == want
    places = [(e.name, e.third) for e in table.values()]
    assert len(set(places)) == len(places)
    stacked = {e.name for e in table.values() if e.third is not None}
    assert all((name, third) in places for name in stacked for third in range(3))


def test_there_and_back(folder):
    config, flat, _ = load_diffusers(folder)
    table = compvis_table(config)
    back = to_native(to_compvis(flat, table), table)
    assert set(back) == set(flat)
    assert all((back[name] == flat[name]).all() for name in flat)


def test_diffusers_converters_give_the_same_networks(folder, theirs, family):
    """Our CompVis tensors through diffusers' converters are diffusers' own tensors."""
    from diffusers.loaders import single_file_utils as single

    config, flat, _ = load_diffusers(folder)
    file = {n: torch.tensor(a) for n, a in to_compvis(flat, compvis_table(config)).items()}
    made = {
        "unet": single.convert_ldm_unet_checkpoint(dict(file), dict(theirs.unet.config)),
        "vae": single.convert_ldm_vae_checkpoint(dict(file), dict(theirs.vae.config)),
    }
    prefix = {"sdxl": "conditioner.embedders.0.transformer."}
    if family != "sd2":
        start = prefix.get(family, "cond_stage_model.transformer.")
        made["text_encoder"] = single.convert_ldm_clip_checkpoint(dict(file), start)
    for part, tensors in made.items():
        want = getattr(theirs, part).state_dict()
        tensors = {n.removeprefix("text_model."): t for n, t in tensors.items()}
        want = {n.removeprefix("text_model."): t for n, t in want.items()}
        assert set(want) <= set(tensors), part
        assert all(torch.equal(tensors[n], want[n]) for n in want), part


@pytest.mark.parametrize("family", ["sd2", "sdxl"], indirect=True)
def test_open_clip_is_converted_as_diffusers_does(folder, theirs, family):
    from diffusers.loaders import single_file_utils as single

    config, flat, _ = load_diffusers(folder)
    file = {n: torch.tensor(a) for n, a in to_compvis(flat, compvis_table(config)).items()}
    part = "text_encoder_2"
    start = "conditioner.embedders.1.model."
    if family == "sd2":
        part = "text_encoder"
        start = "cond_stage_model.model."
    if family == "sd2":  # its converter looks at the projection's width
        file[start + "text_projection"] = torch.zeros(24, 24)
    encoder = getattr(theirs, part)
    made = single.convert_open_clip_checkpoint(encoder, file, prefix=start)
    made = {n.removeprefix("text_model."): t for n, t in made.items()}
    want = {n.removeprefix("text_model."): t for n, t in encoder.state_dict().items()}
    want = {n: t for n, t in want.items() if not n.endswith("position_ids")}
    assert set(want) <= set(made)
    assert all(torch.equal(made[n], want[n]) for n in want)


@pytest.fixture(scope="session")
def single_file(folder, tmp_path_factory):
    """Return the same weights as one CompVis file, with what training leaves behind."""
    config, flat, _ = load_diffusers(folder)
    tensors = to_compvis(flat, compvis_table(config))
    tensors |= {
        "betas": np.zeros(1000, np.float32),
        "model_ema.decay": np.zeros(1, np.float32),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": np.zeros((1, 77)),
    }
    path = tmp_path_factory.mktemp("compvis") / "model.safetensors"
    save_file(tensors, str(path))
    return path


def test_single_file_holds_the_same_model(single_file, folder):
    config, flat, _ = load_diffusers(folder)
    opened = recognise_file(TensorFile(single_file), config)
    found, tensors = opened.config, opened.read()
    assert found == config
    assert all((tensors[name] == flat[name]).all() for name in flat)


def test_averages_are_those_that_diffusers_extracts(folder, theirs, family, tmp_path):
    """`extract_ema` of diffusers, which goes by the names of a real training run's file."""
    from diffusers.loaders import single_file_utils as single

    config, flat, _ = load_diffusers(folder)
    table = compvis_table(config)
    mean = {n: a + 1 if n.startswith("unet.") else a for n, a in flat.items()}
    tensors = to_compvis(flat, table)
    tensors |= to_compvis(mean, ema_table(table))
    save_file(tensors, str(tmp_path / "run.safetensors"))
    for ema in (True, False):
        found = recognise_file(TensorFile(tmp_path / "run.safetensors"), config, ema).read()
        file = {n: torch.tensor(a) for n, a in tensors.items()}
        want = single.convert_ldm_unet_checkpoint(file, dict(theirs.unet.config), extract_ema=ema)
        assert {n for n in found if n.startswith("unet.")} == {f"unet.{n}" for n in want}
        assert all((found[f"unet.{n}"] == t.numpy()).all() for n, t in want.items())
        rest = {n for n in flat if not n.startswith("unet.")}
        assert all((found[n] == flat[n]).all() for n in rest)


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_a_variant_is_read_where_it_is_asked_for(folder, theirs, family, tmp_path, capsys):
    """The folder holds the weights twice, as diffusers writes it."""
    from ldmref.apps.cli.main import main

    both = tmp_path / "both"
    theirs.save_pretrained(both)
    theirs.save_pretrained(both, variant="fp16")
    for part in ("unet", "vae", "text_encoder"):
        (half,) = (both / part).glob("*.fp16.safetensors")
        tensors = {n: a.astype(np.float16) for n, a in TensorFile(half).items()}
        half.unlink()
        save_file(tensors, str(half))
    _, whole, _ = load_diffusers(both)
    _, half, _ = load_diffusers(both, "fp16")
    assert {a.dtype for a in whole.values()} == {np.dtype(np.float32)}
    assert {a.dtype for a in half.values()} == {np.dtype(np.float16)}
    assert all((half[n] == whole[n].astype(np.float16)).all() for n in whole)
    with pytest.raises(InputError, match="no variant 'fp61'"):
        load_diffusers(both, "fp61")
    assert main(["info", str(both), "--variant", "fp16", "--tensors"]) == 0
    assert " F16 " in (said := capsys.readouterr().out) and " F32 " not in said
    one = tmp_path / "one.safetensors"
    assert main(["convert", str(both), str(one), "--variant", "fp16"]) == 0
    assert set(TensorFile(one).kinds.values()) == {"F16"}


def test_old_clip_names(single_file, folder, family, tmp_path):
    if family in ("sd2", "sdxl"):
        pytest.skip("only Stable Diffusion 1 was ever saved so")
    config, flat, _ = load_diffusers(folder)
    old = {
        n.replace("transformer.text_model.", "transformer."): a
        for n, a in TensorFile(single_file).items()
    }
    save_file({n: np.array(a) for n, a in old.items()}, str(tmp_path / "old.safetensors"))
    tensors = recognise_file(TensorFile(tmp_path / "old.safetensors"), config).read()
    assert all((tensors[name] == flat[name]).all() for name in flat)


def test_files_that_do_not_fit_are_refused_with_a_list(single_file, folder, family, tmp_path):
    config, _, _ = load_diffusers(folder)
    whole = {n: np.array(a) for n, a in TensorFile(single_file).items()}
    name = "model.diffusion_model.input_blocks.0.0.weight"
    for change, word in (
        (lambda f: f.pop(name), f"1 missing ({name})"),
        (lambda f: f.update({"strange": np.zeros(1)}), "1 unexpected (strange)"),
        (lambda f: f.update({name: np.zeros((1, 2))}), f"1 misshapen ({name} is (1, 2), not"),
    ):
        broken = dict(whole)
        change(broken)
        save_file(broken, str(tmp_path / "broken.safetensors"))
        with pytest.raises(KeyMismatchError) as error:
            recognise_file(TensorFile(tmp_path / "broken.safetensors"), config)
        assert word in str(error.value)
    with pytest.raises(KeyMismatchError, match="fits no known family; nearest is"):
        recognise_file(TensorFile(single_file))


class Shapes:
    """A file of which only names and shapes are asked for."""

    def __init__(self, config, metadata=None, extra=()):
        entries = compvis_table(config).values()
        self.shapes = {e.name: e.stored_shape for e in entries} | dict.fromkeys(extra, (1,))
        self.metadata = metadata or {}
        self.path = type("Path", (), {"name": "file"})
        self.squeezed = False

    def __iter__(self):
        return iter(self.shapes)


@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in ("sd2-base", "sd2-v")])
def test_family_is_found_from_the_file(name):
    assert recognise_file(Shapes(PRESETS[name])).config == PRESETS[name]


def test_prediction_type_is_read_and_never_guessed():
    base = PRESETS["sd2-base"]
    v = PRESETS["sd2-v"]
    last = "cond_stage_model.model.transformer.resblocks.23.ln_1.weight"
    with pytest.raises(UsageError, match="noise or velocity"):
        recognise_file(Shapes(base))
    says = {"modelspec.prediction_type": "v"}
    assert recognise_file(Shapes(base, says, [last, "logvar"])).config == v
    assert recognise_file(Shapes(base, {"modelspec.prediction_type": "epsilon"})).config == base
    assert recognise_file(Shapes(base), v).config == v
    xl = recognise_file(Shapes(PRESETS["sdxl"], extra=["v_pred"])).config
    assert xl.scheduler.prediction_type == "v" and not xl.scheduler.rescale_betas_zero_snr
    zero = recognise_file(Shapes(PRESETS["sdxl"], extra=["v_pred", "ztsnr"])).config.scheduler
    assert (zero.prediction_type, zero.spacing) == ("v", "trailing")
    assert zero.rescale_betas_zero_snr


@pytest.mark.parametrize("family", ["sd1", "sdxl"], indirect=True)
def test_command_line_draws_from_both_alike(folder, tmp_path, monkeypatch, capsys):
    """Refused without what a file does not tell; with it, the same image as from the folder."""
    from PIL import Image

    from ldmref.apps.cli.main import main

    monkeypatch.chdir(tmp_path)
    one = "one.safetensors"
    common = "-p cat --seed 1 --steps 2 -W 16 -H 16".split()
    assert main(["convert", str(folder), one]) == 0
    assert main(["txt2img", "-m", one, *common, "-o", "a.png"]) == 3
    assert "fits no known family" in capsys.readouterr().err
    told = ["--model-config", str(folder)]
    assert main(["txt2img", "-m", one, *told, *common, "-o", "a.png"]) == 0
    assert main(["txt2img", "-m", str(folder), *common, "-o", "b.png"]) == 0
    with Image.open("a.png") as a, Image.open("b.png") as b:
        assert a.tobytes() == b.tobytes()


def test_info_reads_folders_and_single_files(folder, single_file, family, capsys):
    """A file of a family that is not known says what does not fit, and still lists its tensors."""
    import json

    from ldmref.apps.cli.main import main

    facts = []
    for path in (folder, single_file):
        assert main(["info", str(path), "--json"]) == 0
        facts.append(json.loads(capsys.readouterr().out))
    assert facts[0]["fits"] and not facts[1]["fits"]
    assert facts[0]["config"]["unet"]["in_channels"] in (4, 9)
    assert "fits no known family" in facts[1]["config"]["family"]["not found"]
    names = {t["name"]: t for t in facts[0]["tensors"]}
    assert names["unet.conv_in.weight"]["dtype"] == "F32"
    assert main(["info", str(single_file), "--tensors"]) == 0
    assert "model.diffusion_model.input_blocks.0.0.weight" in capsys.readouterr().out
