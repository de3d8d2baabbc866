"""`ldmref completion`: the scripts, and what they are answered."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from processes import environment, run


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(shell, ldm, tmp_path, skip):
    ran = ldm("completion", shell)
    assert ran.code == 0 and "_LDMREF_COMPLETE" in ran.out
    if not shutil.which(shell):
        skip(shell, "not on this machine, so that its completion script is not tried")
    script = tmp_path / "script"
    script.write_text(ran.out)
    checked = subprocess.run([shell, "-n", script], capture_output=True)
    assert checked.returncode == 0, checked.stderr


def test_another_shell_is_refused(ldm):
    assert ldm("completion", "tcsh").code == 2


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["ldmref", "tx"], {"txt2img"}),
        (["ldmref", "config", ""], {"show"}),
        (
            ["ldmref", "txt2img", "--sampler", "eul"],
            {"euler", "euler_a", "euler_cfgpp", "euler_churn"},
        ),
        (["ldmref", "txt2img", "--guidance", "p"], {"pag", "perp_neg"}),
        (["ldmref", "txt2img", "--schedule", "kar"], {"karras"}),
        (["ldmref", "txt2img", "--rng", "t"], {"torch", "torch-bf16"}),
        (["ldmref", "txt2img", "--rng", "cuda:L"], {"cuda:L4", "cuda:L40", "cuda:L40S"}),
        (["ldmref", "txt2img", "--strengt"], set()),
        (["ldmref", "img2img", "--streng"], {"--strength"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_answers(words, found, work):
    asked = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    env = environment() | asked | {"_LDMREF_COMPLETE": "bash_complete"}
    _, out, err = run(env=env)
    assert {line.partition(",")[2] for line in out.split()} == found, err


@pytest.mark.parametrize("flag", ["-o", "-m", "--config", "--lora", "--latents", "--vae"])
def test_files_are_left_to_the_shell(flag, work):
    asked = {"COMP_WORDS": f"ldmref txt2img {flag} x", "COMP_CWORD": "3"}
    env = environment() | asked | {"_LDMREF_COMPLETE": "bash_complete"}
    assert run(env=env)[1] == "file,x\n"
