"""Standard output of each command with --json: objects alone, whatever the exit code."""

from __future__ import annotations

import json

import click
import pytest

from ldmref.apps.cli.main import cli, main

MISSING = "/nowhere/is/a/file.safetensors"
SUCCESS = {  # arguments with which a command that takes no time succeeds
    "models": (), "samplers": (), "guidance": (), "backends": (), "words": (), "pitfalls": (),
    "differences": (), "config show": (), "completion": ("bash",), "passport list": (),
    "schedule": ("FLUX.1",), "info": ("emoji",),
}  # fmt: skip
WRITE_ALONE = ("cases make",)
LISTS = ("doctor",)  # whose one value is a list


def commands(command=cli, path=()):
    """Yield the path and the command of each command that has --json."""
    if isinstance(command, click.Group):
        for name, part in command.commands.items():
            yield from commands(part, (*path, name))
    elif any(
        "--json" in p.opts and p.is_flag for p in command.params if isinstance(p, click.Option)
    ):
        yield " ".join(path), command


FOUND = dict(commands())


def ran(capsys, *arguments):
    capsys.readouterr()
    code = main(arguments)
    shown = capsys.readouterr()
    return code, [json.loads(line) for line in shown.out.splitlines()], shown.err


@pytest.mark.parametrize("name", FOUND)
def test_a_usage_error_is_one_object(name, capsys):
    code, (error,), err = ran(capsys, *name.split(), "--json", "--no-such-flag")
    assert code == error["error"]["exit"] == 2
    assert error["error"]["message"] in err


@pytest.mark.parametrize("name", FOUND)
def test_a_missing_file_is_one_object(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = []
    for parameter in FOUND[name].params:
        path = parameter.name in ("output", "out") and tmp_path / "made.safetensors"
        if isinstance(parameter, click.Argument) and parameter.nargs != 0:
            given.append(str(path or MISSING))
        elif parameter.required:
            kind = parameter.type
            choices = [*kind.choices] if isinstance(kind, click.Choice) else [MISSING]
            given += [parameter.opts[0], str(path or choices[0])]
    if not given or name in WRITE_ALONE:
        pytest.skip("reads no file")
    if any("--model" in parameter.opts for parameter in FOUND[name].params):
        given += ["--model", MISSING]
    code, objects, _ = ran(capsys, *name.split(), *given, "--json")
    if code:
        (error,) = objects
        assert error["error"]["exit"] == code


@pytest.mark.parametrize("name", SUCCESS)
def test_a_success_prints_objects_alone(name, capsys):
    code, objects, _ = ran(capsys, *name.split(), *SUCCESS[name], "--json")
    assert code == 0 and objects
    assert all(isinstance(x, list if name in LISTS else dict) for x in objects)
