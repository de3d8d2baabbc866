"""Configuration file and environment: what is refused, what wins, and `ldmref config show`."""

from __future__ import annotations

import json
import tomllib

import pytest
from small_models import save_wordless

from ldmref.errors import LdmrefError
from ldmref.io.images.metadata import read_parameters
from ldmref.support.config import settings

FILES = [
    ("typo in a key", "[defaults]\nstpes = 3", "E-CONFIG-KEY", "defaults.stpes", "steps"),
    ("typo in a table", "[default]\nsteps = 3", "E-CONFIG-KEY", "[default]", "defaults"),
    ("no table", "steps = 3", "E-CONFIG-KEY", "steps", "[defaults]"),
    ("wrong type", '[defaults]\nsteps = "3"', "E-CONFIG-KEY", "a whole number", ""),
    ("true is no number", "[defaults]\nsteps = true", "E-CONFIG-KEY", "True", ""),
    ("a list of tables", "[[defaults]]\nsteps = 3", "E-CONFIG-KEY", "defaults", ""),
    ("duplicate key", "[defaults]\nsteps = 3\nsteps = 4", "E-CONFIG-FILE", "", ""),
    ("duplicate table", "[defaults]\n[defaults]", "E-CONFIG-FILE", "", ""),
    ("no TOML", "[defaults\n", "E-CONFIG-FILE", "", ""),
    ("huge", "#" * 2_000_000, "E-CONFIG-FILE", "larger than", ""),
    ("huge number", "[defaults]\nsteps = " + "1" * 5000, "E-CONFIG-FILE", "", ""),
    ("nested", "a = " + "[" * 20_000 + "]" * 20_000, "E-CONFIG-FILE", "nested", ""),
    ("Latin-1", "[defaults]\nmodel = 'caf\xe9'".encode("latin-1"), "E-CONFIG-FILE", "UTF-8", ""),
    ("UTF-16", "[defaults]".encode("utf-16"), "E-CONFIG-FILE", "UTF-8", ""),
]


@pytest.mark.parametrize(
    ("text", "code", "said", "hint"), [f[1:] for f in FILES], ids=[f[0] for f in FILES]
)
def test_files_refused(text, code, said, hint, ldm, work):
    data = text if isinstance(text, bytes) else text.encode()
    (work / "ldmref.toml").write_bytes(data)
    ran = ldm("txt2img", "cat", "--steps", 1)
    assert f"error[{code}]" in ran.err and ran.code == {"E-CONFIG-KEY": 2}.get(code, 3), ran.err
    assert "ldmref.toml" in ran.err and said in ran.err and hint in ran.err
    assert len(ran.err) < 1500 and len(list(work.iterdir())) == 1
    with pytest.raises(LdmrefError) as caught:
        settings()
    assert caught.value.code == code


def test_byte_order_mark_and_crlf(work):
    (work / "ldmref.toml").write_bytes(b"\xef\xbb\xbf[defaults]\r\nsteps = 3\r\n")
    assert settings().defaults == {"steps": 3}


@pytest.mark.parametrize(
    ("variables", "code", "said"),
    [
        ({"LDMREF_STEPS": "abc"}, "E-ENV", "LDMREF_STEPS must be a whole number, not 'abc'"),
        ({"LDMREF_STEPS": "1" * 5000}, "E-ENV", "LDMREF_STEPS"),
        ({"LDMREF_STEPS": "0"}, "E-STEPS", "LDMREF_STEPS: steps must be"),
        ({"LDMREF_CFG_SCALE": "nan"}, "E-CFG-SCALE", "LDMREF_CFG_SCALE: "),
        ({"LDMREF_CFG_SCALE": "7,5"}, "E-ENV", "LDMREF_CFG_SCALE"),
        ({"LDMREF_SAMPLER": "eular"}, "E-SAMPLER", "LDMREF_SAMPLER: "),
        ({"LDMREF_BACKEND": "nunpy"}, "E-BACKEND-NAME", "LDMREF_BACKEND: "),
        ({"LDMREF_DTYPE": "float31"}, "E-DTYPE", "LDMREF_DTYPE: "),
        ({"LDMREF_MODEL": "gone"}, "E-MODEL", "LDMREF_MODEL: "),
        ({"LDMREF_NAME": "numpy"}, "E-ENV", "LDMREF_NAME"),
    ],
    ids=str,
)
def test_variables_refused(variables, code, said, ldm, work, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ran = ldm("txt2img", "cat")
    assert f"error[{code}]: " in ran.err and said in ran.err and ran.code in (2, 3)
    assert not list(work.iterdir())


def test_an_empty_variable_is_not_set(work):
    (work / "ldmref.toml").write_text("[defaults]\nsteps = 3\n[backend]\nname = 'torch'\n")
    empty = settings(environ={"LDMREF_STEPS": "", "LDMREF_BACKEND": "", "LDMREF_CONFIG": ""})
    assert empty.defaults["steps"] == 3 and empty.backend["name"] == "torch"


def test_another_backend_leaves_device_and_dtype_behind(work):
    from ldmref.loading import open_backend

    (work / "ldmref.toml").write_text("[backend]\nname = 'torch'\ndtype = 'float64'\n")
    by_variable = settings(environ={"LDMREF_BACKEND": "numpy"})
    assert by_variable.backend == {"name": "numpy"} and "backend.dtype" not in by_variable.origin
    assert open_backend("numpy").describe()["dtype"] == "float32"
    both = settings(environ={"LDMREF_BACKEND": "numpy", "LDMREF_DTYPE": "float16"})
    assert both.backend == {"name": "numpy", "dtype": "float16"}
    (work / "ldmref.toml").write_text("[backend]\ndtype = 'float64'\n")
    assert open_backend("numpy").describe()["dtype"] == "float64"


def test_config_show_of_a_model_that_needs_an_image(ldm, work, tmp_path):
    enlarger = save_wordless(tmp_path / "enlarger", "low_resolution")
    (work / "ldmref.toml").write_text("[defaults]\nwidth = 32\nsteps = 4\n")
    ran = ldm("config", "show", "-m", enlarger)
    shown = tomllib.loads(ran.out)["defaults"]
    assert ran.code == 0 and shown["steps"] == 4 and shown["model"] == str(enlarger)
    assert {"width", "height", "negative_prompt"}.isdisjoint(shown)  # superres takes none


def test_config_show(ldm, work, monkeypatch):
    ran = ldm("config", "show")
    shown = tomllib.loads(ran.out)
    assert ran.code == 0 and set(shown) == {"backend", "defaults"}
    assert (shown["defaults"]["model"], shown["defaults"]["width"]) == ("emoji", 128)
    (work / "ldmref.toml").write_text(ran.out)
    assert ldm("config", "show").out == ran.out
    limits = '[limits]\nmax_memory = "6GB"\n'
    (work / "ldmref.toml").write_text(ran.out + limits)
    assert ldm("config", "show").out == ran.out + limits
    (work / "ldmref.toml").write_text("[defaults]\nsteps = 3\nwidth = 32\n")
    monkeypatch.setenv("LDMREF_CFG_SCALE", "2")
    ran = ldm("config", "show", "--origin", "--json", "--width", 48, "--backend", "numpy")
    rows = {key: (row["value"], row["origin"]) for key, row in json.loads(ran.out).items()}
    assert rows["defaults.steps"] == (3, "ldmref.toml")
    assert rows["defaults.width"] == (48, "flag")
    assert rows["defaults.cfg_scale"] == (2.0, "LDMREF_CFG_SCALE")
    assert rows["defaults.height"] == (128, "default")
    assert rows["backend.name"] == ("numpy", "flag")
    tomllib.loads(ldm("config", "show", "--origin").out)
    assert "# LDMREF_CFG_SCALE" in ldm("config", "show", "--origin").out
    assert ldm("config", "show", "--steps", 0).code == 2


SET = '[defaults]\noutput = "out/"\nseed = 5\ncount = 2\nrng = "torch"\n'


def seeds_in(folder):
    return sorted(read_parameters(path)["ldmref"]["seed"] for path in folder.iterdir())


def test_output_seed_count_and_rng_have_defaults(draw, work, monkeypatch):
    (work / "ldmref.toml").write_text(SET)
    draw("txt2img", "cat")
    assert seeds_in(work / "out") == [5, 6]
    assert read_parameters(work / "out/cat-5.png")["ldmref"]["rng"] == "torch"
    draw("txt2img", "cat", "-o", "flags/", "--seed", 9, "-c", 1, "--rng", "philox")
    assert [p.name for p in (work / "flags").iterdir()] == ["cat-9.png"]
    draw("txt2img", "cat", "-o", "list/", "--seed", "3,1,4")
    assert seeds_in(work / "list") == [1, 3, 4]
    monkeypatch.setenv("LDMREF_OUTPUT", "variable/")
    monkeypatch.setenv("LDMREF_COUNT", "1")
    draw("txt2img", "cat")
    assert [p.name for p in (work / "variable").iterdir()] == ["cat-5.png"]


def test_a_replay_takes_neither_count_nor_rng_from_settings(draw, work):
    draw("txt2img", "cat", "--seed", 8, "-o", "a.png")
    (work / "ldmref.toml").write_text(SET.replace('output = "out/"\n', ""))
    draw("run", "--from", "a.png", "-o", "b.png")
    assert (work / "a.png").read_bytes() == (work / "b.png").read_bytes()


def test_modes_without_seed_or_count_ignore_them(draw, material):
    (material / "ldmref.toml").write_text(SET)
    draw("invert", "cat", "-i", "a.png")
    draw("interpolate", "cat", "--to", "dog", "--frames", 3)
    draw("txt2img", "cat", "--latents", "noise.npy", "-o", "l.png")
    assert len(list((material / "out").iterdir())) == 4


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ('seed = "five"', "E-CONFIG-KEY", "a whole number"),
        ("seed = -5", "E-SEED", "ldmref.toml: "),
        ("count = 0", "E-COUNT", "ldmref.toml: "),
        ('rng = "dice"', "E-RNG", "ldmref.toml: "),
        ('output = "gone/a.png"', "E-FOLDER", "gone"),
    ],
)
def test_their_mistakes(line, code, said, ldm, work, model_folder):
    (work / "ldmref.toml").write_text(f"[defaults]\n{line}\n")
    ran = ldm("txt2img", "cat", "-m", model_folder)
    assert f"error[{code}]" in ran.err and said in ran.err and len(list(work.iterdir())) == 1


def test_config_show_of_them(ldm, work):
    shown = tomllib.loads(ldm("config", "show").out)["defaults"]
    assert (shown["output"], shown["seed"], shown["count"], shown["rng"]) == (".", -1, 1, "philox")
    (work / "ldmref.toml").write_text(SET)
    shown = tomllib.loads(ldm("config", "show").out)["defaults"]
    assert (shown["output"], shown["seed"], shown["count"], shown["rng"]) == ("out/", 5, 2, "torch")
    rows = json.loads(ldm("config", "show", "--origin", "--json", "--seed", 7, "-o", "x/").out)
    assert rows["defaults.seed"] == {"value": 7, "origin": "flag"}
    assert rows["defaults.output"] == {"value": "x/", "origin": "flag"}


def test_a_maps_refusal_names_the_setting_as_it_was_given(ldm, work, monkeypatch):
    """A flag, a variable of the environment, or a key of the file."""
    command = ("txt2img", "a", "-m", "emoji-map", "-o", "a.png")
    assert "takes no --cfg 3" in ldm(*command, "--cfg", "3").err
    assert "takes no --negative-prompt" in ldm(*command, "-n", "x").err
    (work / "ldmref.toml").write_text("[defaults]\ncfg_scale = 3\n")
    assert "ldmref.toml: guidance is baked" in ldm(*command).err
    monkeypatch.setenv("LDMREF_CFG_SCALE", "3")
    assert "LDMREF_CFG_SCALE: guidance is baked" in ldm(*command).err
    assert "LDMREF" not in ldm(*command, "--cfg", "3").err
