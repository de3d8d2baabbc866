"""`ldmref run`: flags replace what an image records, and what belongs to it."""

from __future__ import annotations

from ldmref.io.images.metadata import read_parameters


def recorded(path):
    return read_parameters(path)["ldmref"]


def test_noise_levels_replace_steps_and_schedule_and_the_other_way_round(draw, work):
    draw("txt2img", "red", "--steps", 3, "--schedule", "karras", "--seed", 1, "-o", "a.png")
    draw("run", "--from", "a.png", "--sigmas", "9.0,2.0,0.0", "-o", "b.png")
    assert recorded("b.png")["sigmas"] == [9.0, 2.0, 0.0] and recorded("b.png")["steps"] == 2
    draw("run", "--from", "b.png", "-o", "c.png")
    assert recorded("c.png")["sigmas"] == [9.0, 2.0, 0.0]
    draw("run", "--from", "b.png", "--steps", 3, "--schedule", "karras", "-o", "d.png")
    assert "sigmas" not in recorded("d.png") and recorded("d.png")["steps"] == 3
    draw("run", "--from", "b.png", "--steps", 3, "-o", "f.png")
    assert "sigmas" not in recorded("f.png") and recorded("f.png")["steps"] == 3
    draw("run", "--from", "b.png", "--schedule", "karras", "-o", "e.png")
    assert (recorded("e.png")["schedule"], recorded("e.png")["steps"]) == ("karras", 2)


def test_a_sampler_that_names_its_schedule_replaces_the_recorded_one(draw, work):
    draw("txt2img", "red", "--schedule", "linspace", "--seed", 1, "-o", "a.png")
    draw("run", "--from", "a.png", "--sampler", "DPM++ 2M Karras", "-o", "b.png")
    params = recorded("b.png")
    assert (params["sampler"], params["schedule"]) == ("dpmpp_2m", "karras")
    (work / "ldmref.toml").write_text("[defaults]\nschedule = 'linspace'\n")
    draw("txt2img", "red", "--sampler", "DPM++ 2M Karras", "--seed", 1, "-o", "c.png")
    assert recorded("c.png")["schedule"] == "karras"


def test_two_schedules_are_one_too_many(ldm, model_folder, work):
    ran = ldm(
        "txt2img", "a b", "-m", model_folder, "--sampler", "euler karras", "--schedule", "beta"
    )
    assert ran.code == 2 and "E-SCHEDULE" in ran.err and "karras" in ran.err
