"""`--long-prompts` and `--prompt-weights` on the command line."""

from __future__ import annotations

from ldmref.io.images.metadata import read_parameters

PROMPT = "a (red:1.5) heart with a blue cat with a green dog with a red face with a hat"


def test_flags_are_passed_on_recorded_and_replayed(draw, work):
    flags = ("--long-prompts", "chunk", "--prompt-weights", "a1111", "--seed", "3")
    draw("txt2img", PROMPT, *flags, "-o", "a.png")
    params = read_parameters("a.png")["ldmref"]
    assert (params["long_prompts"], params["prompt_weights"]) == ("chunk", "a1111")
    draw("txt2img", PROMPT, "--seed", "3", "-o", "plain.png")
    params = read_parameters("plain.png")["ldmref"]
    assert (params["long_prompts"], params["prompt_weights"]) == ("truncate", "none")
    draw("run", "--from", "a.png", "-o", "b.png")
    assert (work / "a.png").read_bytes() == (work / "b.png").read_bytes()
    assert (work / "a.png").read_bytes() != (work / "plain.png").read_bytes()
    draw("run", "--from", "a.png", "--prompt-weights", "none", "-o", "c.png")
    assert read_parameters("c.png")["ldmref"]["prompt_weights"] == "none"
