"""Every command has --json, and `ldmref differences`."""

import json

import click
import pytest

from ldmref.apps.cli.main import cli

WITHOUT = {
    "cases": "a group, whose commands `make` and `run` have it",
    "config": "a group, whose command `show` has it",
    "export": "a group, whose command `onnx` has it",
    "mcp": "its output is JSON",
    "passport": "a group, whose commands have it",
    "trace": "a group, whose commands have it",
}


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_prints_json(name):
    command = cli.commands[name]
    flags = {flag for p in command.params for flag in p.opts}
    assert ("--json" in flags) != (name in WITHOUT), name
    assert isinstance(command, click.Command)


def test_differences_of_one_program_of_two_and_of_a_sampler(ldm):
    def rows(*arguments):
        ran = ldm("differences", *arguments, "--json")
        assert ran.code == 0
        return [json.loads(line) for line in ran.out.splitlines()]

    everything = rows()
    assert len(everything) > 30
    assert all("CompVis" in row["programs"] for row in rows("compvis"))
    both = rows("diffusers", "ComfyUI")
    assert both and all({"diffusers", "ComfyUI"} <= set(row["programs"]) for row in both)
    assert all("dpmpp_2m" in row["samplers"] for row in rows("--sampler", "DPM++ 2M"))


def test_differences_in_words_and_of_an_unknown_program(ldm):
    assert "diffusers" in ldm("differences", "diffusers").out
    ran = ldm("differences", "difusers")
    assert ran.code == 2 and "did you mean 'diffusers'" in ran.err
    assert "no difference is known" in ldm("differences", "hkproj", "--sampler", "lcm").out


def test_completion_as_json(ldm):
    ran = ldm("completion", "bash", "--json")
    assert "_LDMREF_COMPLETE" in json.loads(ran.out)["script"]
