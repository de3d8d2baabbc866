"""What a form offers for a model is what its plan takes."""

from __future__ import annotations

import pytest

import ldmref
from ldmref import modes
from ldmref.apps.server.forms import CHOICES, choices_of, negative_prompt_uses
from ldmref.errors import UsageError
from ldmref.models import preset
from ldmref.samplers import GUIDANCES
from ldmref.samplers.spacings import FLOW_SPACINGS, SPACINGS


@pytest.mark.parametrize("name", ["tiny", "sd15", "sd3-tiny", "flux-tiny", "ldm-imagenet"])
def test_what_is_offered_can_be_planned_and_nothing_else(name):
    config = preset(name)
    for field, offered in choices_of(config).items():
        for value in CHOICES[field]:
            asked = {field: value}
            if value in GUIDANCES and GUIDANCES[value].by_guide:
                asked["guide"] = config
            if value in offered:
                modes.plan("txt2img", config, prompt="", **asked)
            else:
                with pytest.raises(UsageError):
                    modes.plan("txt2img", config, prompt="", **asked)


def test_the_schedules_are_those_of_the_path():
    assert choices_of(preset("sd15"))["schedule"] == SPACINGS
    assert choices_of(preset("sd3-medium"))["schedule"] == FLOW_SPACINGS
    assert choices_of(preset("flux-tiny"))["guidance"] == ("cfg", "nag", "autoguidance")


def test_a_model_that_needs_an_image_offers_all():
    assert choices_of(preset("ldm-superres")) == CHOICES


def test_every_offered_schedule_of_a_flow_generates():
    model = ldmref.random_model("sd3-tiny", backend="numpy")
    for schedule in choices_of(model.config)["schedule"]:
        assert modes.txt2img(model, "a", steps=2, seed=1, schedule=schedule).images


@pytest.mark.parametrize(
    "name, plain, nag, rescale",
    [
        ("sd15", "guided", "always", "guided"),
        ("flux-schnell", "guided", "always", "guided"),
        ("flux-dev", "never", "always", None),
    ],
)
def test_when_a_model_reads_a_negative_prompt(name, plain, nag, rescale):
    uses = negative_prompt_uses(preset(name))
    found = uses["guidances"]
    assert (found[""], found["nag"], found.get("rescale")) == (plain, nag, rescale)
    assert found.get("perp_neg") in ("always", None)
    assert ("euler_cfgpp" in uses["samplers"]) == (name != "flux-dev")
    assert "euler" not in uses["samplers"]
