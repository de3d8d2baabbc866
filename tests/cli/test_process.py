"""Tests that need a separate process: exit codes, pipes, signals, imported modules."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys

import pytest
from PIL import Image
from processes import LDMREF, POSIX, environment, start

from ldmref.apps.cli.progress import Stopped, stopping


def test_help_and_version_load_no_torch(work):
    code = (
        "import sys\nfrom ldmref.apps.cli.main import main\n"
        "assert main(['--help']) == main(['--version']) == main([]) == 0\n"
        "from ldmref.apps.cli.main import cli; dict(cli.commands)\n"
        "sys.exit(f'loaded {heavy}' if (heavy := {'torch', 'cupy'} & set(sys.modules)) else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment())
    assert ran.returncode == 0, ran.stderr
    assert b"txt2img" in ran.stdout


def test_one_png_on_standard_output(model_folder, work):
    process = start("txt2img", "-", "-m", model_folder, "-o", "-", stdin=subprocess.PIPE)
    out, err = process.communicate(b"red heart\n", timeout=60)
    assert process.returncode == 0, err
    image = Image.open(io.BytesIO(out))
    assert image.format == "PNG" and json.loads(image.info["ldmref"])["prompt"] == "red heart"
    assert b"seed" in err and not list(work.iterdir())


@POSIX
def test_broken_pipe_is_quiet(model_folder, work):
    read, write = os.pipe()
    os.close(read)
    process = start("txt2img", "cat", "-m", model_folder, "-o", "-", "-q", stdout=write)
    os.close(write)
    assert process.communicate(timeout=60)[1] == b"" and process.returncode == 141


@POSIX
def test_prompt_that_is_no_unicode(model_folder, work):
    process = subprocess.run(
        [*map(os.fsencode, LDMREF), b"txt2img", b"-m", os.fsencode(model_folder), b"\xff\xfe"],
        capture_output=True,
        env=environment(),
    )
    assert process.returncode == 2 and b"error[E-PROMPT]" in process.stderr
    assert b"Traceback" not in process.stderr and not list(work.iterdir())


@POSIX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_keeps_the_finished_images(number, code, model_folder, work):
    flags = ["--steps", "20", "-c", "10000", "--seed", "0", "--progress", "plain", "-o", "a.png"]
    process = start("txt2img", "cat", "-m", model_folder, *flags)
    for line in process.stderr:
        if line.startswith(b"image 3/"):
            process.send_signal(number)
            break
    err = process.communicate(timeout=60)[1].decode()
    assert process.returncode == code, err
    done = sorted(p.name for p in work.iterdir())
    assert {"a-0000.png", "a-0001.png"} <= set(done) and len(done) < 10_000
    assert f"error[E-CANCELLED]: stopped; {len(done)} of 10000" in err and "Traceback" not in err


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_at_once(number):
    with stopping() as stop:
        signal.raise_signal(number)
        assert stop.is_set() and stop.exit_code == 128 + number
        with pytest.raises(Stopped) as caught:
            signal.raise_signal(number)
    assert caught.value.exit_code == 128 + number
