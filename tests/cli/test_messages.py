"""First words, quotes, and the flags that messages and hints name."""

from __future__ import annotations

import click
import pytest

from ldmref.apps.cli.failures import list_flags
from ldmref.apps.cli.flags import describe_range
from ldmref.apps.cli.main import cli
from ldmref.apps.cli.messages import quote_command, rewrite_as_flags, shorten
from ldmref.errors import closest


def command(name):
    return cli.commands[name]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("txt2img", "give config= with a preset", "give --model-config with a preset"),
        ("txt2img", "fetch=True (--fetch) gets it", "--fetch gets it"),
        ("txt2img", "ema=False (--no-ema) reads the last", "--no-ema reads the last"),
        ("txt2img", ": --ema (ema=True) reads", ": --ema reads"),
        ("txt2img", "decode in tiles (tile=512)", "decode in tiles (--tile 512)"),
        ("txt2img", "use batch_size=1", "use --batch 1"),
        ("txt2img", "add it as lora=", "add it as --lora"),
        ("txt2img", "use long_prompts=truncate", "use --long-prompts truncate"),
        ("txt2img", "cfg_scale must be a number", "--cfg must be a number"),
        ("txt2img", "the prompt must be short", "the prompt must be short"),
        ("txt2img", "mask_blur must be a number", "mask_blur must be a number"),
        ("inpaint", "mask_blur must be a number", "--mask-blur must be a number"),
        ("info", "give config= with a preset", "give config= with a preset"),
        ("samplers", "steps must be whole", "steps must be whole"),
    ],
)
def test_parameters_become_flags(name, text, said):
    assert rewrite_as_flags(text, command(name)) == said


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (
            ["red", "heart"],
            "no such command: red",
            'to generate an image of it: ldmref "red heart"',
        ),
        (
            ["red", "heart", "--seed", "1"],
            "red",
            'to generate an image of it: ldmref "red heart" --seed 1',
        ),
        (["trainn"], "no such command: trainn", "did you mean 'train'?"),
        (["rain", "--seed", "1"], "no such command: rain", "ldmref txt2img rain --seed 1"),
        (["bench", "--profile"], "bench is no command any more", "python -m benchmarks.alone"),
        (["help", "trainn"], "no such command: trainn", "did you mean 'train'?"),
        (["txt2img", "x", "--preview-fil", "a"], "--preview-fil", "did you mean '--preview-file'?"),
        (["txt2img", "x", "--style", "a"], "no such option: --style", "ldmref txt2img --help"),
        (["txt2img", "x", "--prevue"], "no such option: --prevue", "did you mean '--preview'?"),
        (["txt2img", "x", "--cgf", "2"], "no such option: --cgf", "did you mean '--cfg'?"),
        (["txt2imgg", "cat"], "txt2imgg", "did you mean 'txt2img'?"),
        (["txt2img", "red", "heart"], "2 words", 'in quotes: ldmref txt2img "red heart"'),
        (["img2img", "red", "heart", "-i", "a"], "2 words", 'ldmref img2img "red heart"'),
        (["-q", "samplers"], "-q must come after the command", "ldmref samplers -q"),
        (
            ["txt2img", "x", "--strength", "1"],
            "no such option",
            "txt2img does not have it, unlike img2img",
        ),
        (["info", "-m", "a"], "no such option: -m", "info takes the model as an argument"),
        (["convert", "--model", "a"], "no such option", "convert takes the model as an argument"),
        (["export", "onnx", "-m", "a"], "no such option: -m", "takes the model as an argument"),
        (["finetune", "-m", "a"], "no such option: -m", "finetune takes the model as --base MODEL"),
        (["samplers", "--step", "1"], "no such option: --step", "see ldmref samplers --help"),
        (["txt2img", "x", "--batch", "0"], "--batch must be from 1 to", ""),
        (["check", "--cases", "0"], "--cases must be from 1 to 100000, not 0", "check --help"),
        (["train", "--steps", "0"], "--steps must be at least 1, not 0", "train --help"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_to_type(argv, message, hint, ldm, work):
    ran = ldm(*argv)
    said, *hints = ran.err.splitlines()
    assert ran.code == 2 and message in said and hint in "".join(hints), ran.err
    assert not list(work.iterdir())


@pytest.mark.parametrize(
    "argv",
    [
        ["-p", "red heart"],
        ["--seed", "1", "-p", "red heart"],
        ["umbrella"],
        ["sun"],
        ["🐶"],
        ["rain", "--cfg", "2"],
        ["fire", "--seed", "1"],
        ["rain", "-n", "cloud"],
    ],
)
def test_flags_or_a_word_alone_draw(argv, ldm, model_folder, work):
    assert ldm(*argv, "-m", model_folder, "-o", "a.png").code == 0
    assert [p.name for p in work.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_help_as_a_command(name, ldm):
    assert ldm("help", name).out == ldm(name, "--help").out != ""
    assert ldm("help").out == ldm("--help").out


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (click.IntRange(1, 10), "from 1 to 10"),
        (click.IntRange(1), "at least 1"),
        (click.IntRange(max=9, max_open=True), "below 9"),
        (click.FloatRange(0, min_open=True), "above 0"),
        (click.FloatRange(0, 1, min_open=True), "above 0, at most 1"),
    ],
)
def test_ranges_in_words(kind, said):
    assert describe_range(kind) == said


@pytest.mark.parametrize("name", [None, *sorted(cli.commands)])
def test_help_is_free_of_python(name, ldm):
    """No backticks, None, type names of click, or comparisons with an unnamed x."""
    text = ldm(*([name] if name else []), "--help").out
    for python in ("`", "None", "INTEGER", "FLOAT", "x<", "<x", "x>", "model.config", "(model"):
        assert python not in text, python
    assert "Default: . " not in " ".join(text.split()), "a default without a name"


def test_a_suggestion_is_a_misspelling():
    """Every flag with a letter left out, doubled, or two exchanged leads back to it or to one that
    is as near; a word with less than three letters in four in common leads to none."""
    flags = {flag[2:] for c in cli.commands.values() for flag in list_flags(c) if flag[:2] == "--"}
    for flag in sorted(flags):
        for i in range(len(flag)):
            misspelt = {flag[:i] + flag[i] + flag[i:]}
            if len(flag) > 3:
                misspelt |= {flag[:i] + flag[i + 1 :]} - {""}
            misspelt.add(flag[:i] + flag[i : i + 2][::-1] + flag[i + 2 :])
            for word in misspelt:
                if len(flag) > 3 or sorted(word) == sorted(flag):
                    assert closest(word, flags), (flag, word)
    for word in ("artist", "quality", "upscale", "dog", "x", "gpu", "hires"):
        close = closest(word, flags)
        assert not close or close in word, (word, close)


def test_suggested_flags_exist():
    """Whatever is misspelt, what is suggested is a flag or an alias of the command at hand."""
    from ldmref.apps.cli.failures import to_usage_error
    from ldmref.apps.cli.main import aliases

    everywhere = {flag for c in cli.commands.values() for flag in list_flags(c)}
    for name, c in cli.commands.items():
        own = {
            *list_flags(c),
            *(f"--{a}" for a, to in aliases().items() if f"--{to}" in list_flags(c)),
        }
        for flag in (*everywhere, *(f"--{a}" for a in aliases())):
            error = to_usage_error(click.NoSuchOption(f"{flag}x"), c, cli.commands, aliases())
            if error.hint.startswith("did you mean"):
                assert error.hint.split("'")[1] in own, (name, flag, error.hint)


def test_usage_errors_name_the_help_of_the_command_that_was_used(ldm, work):
    groups = {name: c for name, c in cli.commands.items() if isinstance(c, click.Group)}
    assert {"export", "cases", "trace", "check", "config"} <= groups.keys()
    paths = [(name,) for name in cli.commands if name != "trace"]  # it implies txt2img
    paths += [(name, sub) for name, group in groups.items() for sub in group.commands]
    for path in paths:
        ran = ldm(*path, "--no-such-flag-at-all")
        assert ran.code == 2 and "no such option: --no-such-flag-at-all" in ran.err
        assert f"hint: see ldmref {' '.join(path)} --help" in ran.err, (path, ran.err)
    assert "hint: see ldmref export onnx --help" in ldm("export", "onnx").err
    assert "hint: see ldmref config show --help" in ldm("config", "show", "--frobn").err


def test_a_group_without_a_command_lists_its_commands(ldm, work):
    ran = ldm("cases")
    assert ran.code == 2 and "ldmref cases needs a command: make, run" in ran.err
    assert "hint: see ldmref cases --help" in ran.err


def test_long_names_are_shortened(ldm, work):
    for argv in (
        ["txt2img", "x", "-o", "a" * 300 + ".png"],
        ["txt2img", "x", "-o", "a" * 5000 + ".png"],
        ["txt2img", "x", "-o", "a" * 5000 + "/"],
        ["txt2img", "x", "-m", "a" * 5000],
        ["txt2img", "x", "--config", "a" * 5000],
        ["txt2img", "x", "--vae", "a" * 5000],
        ["txt2img", "x", "--lora", "a" * 5000],
        ["txt2img", "x", "--latents", "a" * 5000],
        ["img2img", "x", "-i", "a" * 5000],
        ["info", "a" * 5000],
        ["run", "--from", "a" * 5000],
        ["convert", "emoji", "a" * 5000],
        ["convert", "a" * 5000, "b"],
        ["a" * 5000],
    ):
        ran = ldm(*argv)
        assert ran.code in (2, 3, 8) and "E-INTERNAL" not in ran.err, (argv[:3], ran.err)
        assert (ran.code == 8) == ("-o" in argv or argv[:2] == ["convert", "emoji"])
        assert len(ran.err) < 1500 and not list(work.iterdir())
    assert shorten("x" * 400) == "x" * 400 and len(shorten("x" * 401)) < 410


def test_emoji_names_as_long_as_a_file_system_allows(draw, work):
    name = "\U0001f600" * 62 + ".png"  # 252 bytes
    draw("txt2img", "cat", "-o", name)
    assert [p.name for p in work.iterdir()] == [name]


def test_commands_are_quoted():
    assert quote_command(["ldmref", "a b", "it's", 'a "b"', "$x"]) == (
        "ldmref \"a b\" 'it'\"'\"'s' 'a \"b\"' '$x'"
    )
