"""Names of diffusers, A1111 and CompVis: what Python suggests for them, and flags."""

from __future__ import annotations

import traceback

import pytest

from ldmref import modes
from ldmref.apps.cli.main import aliases, cli
from ldmref.apps.foreign import foreign_names
from ldmref.errors import UsageError
from ldmref.models.presets import preset
from ldmref.modes.aliases import ALIASES, NOTES, OF_PYTHON, RUNNING
from ldmref.modes.registry import MODES

TINY = preset("tiny")
KNOWN = {name for mode in MODES.values() for name in mode.parameters}


def hint_of(mode, name):
    with pytest.raises(UsageError) as caught:
        modes.plan(mode, TINY, **{name: 3})
    assert caught.value.code == "E-USAGE" and repr(name) in str(caught.value)
    shown = traceback.format_exception(caught.value)[-1].rstrip()
    assert shown == f"hint: {caught.value.hint}"
    return caught.value.hint


@pytest.mark.parametrize(("name", "meant"), ALIASES.items())
def test_every_name_of_other_programs_suggests_the_parameter(name, meant):
    assert meant in KNOWN and name not in KNOWN, "an alias stands for a parameter, and is none"
    for mode in MODES:
        parameters = MODES[mode].parameters
        hint = hint_of(mode, name)
        if meant in parameters:
            assert hint.startswith(f"did you mean {meant!r}?") and NOTES.get(name, "") in hint
        else:
            having = [other for other in MODES if meant in MODES[other].parameters]
            assert hint == f"{mode} has no {meant!r}, but {', '.join(having)}"
        assert hint_of(mode, name.upper()) == hint


@pytest.mark.parametrize(
    ("mode", "name", "hint"),
    [
        ("txt2img", "guidance_scale", "did you mean 'cfg_scale'?"),
        ("txt2img", "cfg", "did you mean 'cfg_scale'?"),
        ("txt2img", "num_inference_steps", "did you mean 'steps'?"),
        ("txt2img", "num_images_per_prompt", "did you mean 'count'?"),
        ("txt2img", "scheduler", "the method is sampler="),
        ("txt2img", "generator", "did you mean 'seed'? (an integer"),
        ("txt2img", "image", "txt2img has no 'image', but edit, img2img, inpaint"),
        ("txt2img", "init_image", "txt2img has no 'image', but edit, img2img, inpaint"),
        ("img2img", "init_image", "did you mean 'image'?"),
        ("txt2img", "strength", "but img2img, inpaint"),
        ("txt2img", "denoising_strength", "txt2img has no 'strength', but img2img"),
        ("superres", "guidance_scale", "superres has no 'cfg_scale', but"),
        ("txt2img", "callback_on_step_end", "callback="),
        ("txt2img", "callback", "run(model, callback=...)"),
        ("txt2img", "stpes", "did you mean 'steps'?"),
        ("txt2img", "xyzzy", "Known: "),
    ],
)
def test_what_is_suggested(mode, name, hint):
    assert hint in hint_of(mode, name)


@pytest.mark.parametrize("name", RUNNING)
def test_arguments_of_a_run_are_no_parameters_but_have_a_hint(name):
    assert name not in KNOWN | set(aliases()) and hint_of("txt2img", name) == RUNNING[name]


def all_flags(command):
    return {flag.lstrip("-") for p in command.params for flag in (*p.opts, *p.secondary_opts)}


def test_the_table_of_flags_is_the_same_and_hides_no_flag():
    """A flag that is also an alias would be unreachable if the command has the flag that it means.

    Otherwise both names mean it, as `--controlnet` and `--control` of serve.
    """
    expected = {
        "num-inference-steps": "steps",
        "batch-size": "batch",
        "cfg-scale": "cfg",
        "scheduler": "schedule",
        "b": "c",
        "init-image": "image",
        "num-images-per-prompt": "count",
        "sampling-method": "sampler",
        "negative": "negative-prompt",
    }
    assert expected.items() <= aliases().items()
    apart = {"cfg", *OF_PYTHON}  # a flag itself, and numbers that no flag takes
    for mode in MODES.values():
        apart |= {name for field in mode.parameters.values() for name in foreign_names(field)}
    assert set(ALIASES) - {name.replace("-", "_") for name in aliases()} == apart
    drawing = set().union(*(all_flags(cli.commands[mode]) for mode in MODES))
    assert set(aliases().values()) <= drawing
    for name, command in cli.commands.items():
        flags = all_flags(command)
        assert not {aliases()[flag] for flag in flags & set(aliases())} & flags, name
