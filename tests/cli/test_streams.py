"""Closed, full and unread streams; kills, full disks and signals: what is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from PIL import Image
from processes import LDMREF, POSIX, environment, run, start

pytestmark = POSIX


@pytest.fixture(params=[{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
def shell(request):
    """`shell(line, *argv)` runs `line` with "$@" as the program and its arguments.

    Python keeps what it could not write, and tries once more when it ends, unless it is unbuffered.
    """

    def run_line(line, *argv):
        command = ["sh", "-c", line, "sh", *LDMREF, *map(str, argv)]
        env = environment() | request.param
        ran = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
        return ran.returncode, ran.stdout, ran.stderr

    return run_line


BAD = ["txt2img", "cat", "--steps", "0"]


@pytest.mark.parametrize(
    ("line", "argv", "code", "said"),
    [
        ('"$@" >&-', ["samplers"], 8, "error[E-STDOUT]"),
        ('"$@" >/dev/full', ["samplers"], 8, "error[E-WRITE]"),
        ('"$@" >/dev/full', ["--version"], 8, "error[E-WRITE]"),
        ('"$@" >/dev/full', ["completion", "bash"], 8, "error[E-WRITE]"),
        ('"$@" >/dev/full 2>/dev/full', ["samplers"], 8, ""),
        ('"$@" >/dev/full 2>&-', ["samplers"], 8, ""),
        ('"$@" >&- 2>/dev/full', ["samplers"], 8, ""),
        ('"$@" >&- 2>&-', ["samplers"], 8, ""),
        ('"$@" >&-', ["txt2img", "cat", "-o", "-"], 8, "error[E-STDOUT]"),
        ('"$@" >&-', ["txt2img", "cat", "--json", "-o", "a.png"], 8, "error[E-STDOUT]"),
        ('"$@" 2>&-', BAD, 2, ""),
        ('"$@" 2>/dev/full', BAD, 2, ""),
        ('"$@" 2>/dev/full', [*BAD, "--verbose"], 2, ""),
        ('"$@" >/dev/full', [*BAD, "--json"], 2, "error[E-STEPS]"),
        ('"$@" >/dev/full 2>/dev/full', [*BAD, "--json"], 2, ""),
        ('"$@" >&- 2>/dev/full', BAD, 2, ""),
        ('"$@" 2>/dev/full', ["samplers", "--no-such-flag"], 2, ""),
        ('"$@" 2>/dev/full', ["samplers"], 0, ""),
        ('"$@" <&-', ["txt2img", "-"], 2, "error[E-STDIN]"),
        ('echo cat | "$@"', ["img2img", "-", "-i", "-"], 2, "error[E-STDIN]"),
        ('printf "caf\\351" | "$@"', ["txt2img", "-"], 2, "error[E-PROMPT]"),
    ],
)
def test_streams_that_do_not_work(shell, line, argv, code, said, work, model_folder):
    model = ["-m", model_folder] if argv[0] in ("txt2img", "img2img") else []
    returned, _, err = shell(line, *argv, *model)
    assert returned == code and said in err and "E-INTERNAL" not in err
    assert "Traceback" not in err and "Exception ignored" not in err
    assert not list(work.iterdir())


@pytest.mark.parametrize("line", ['"$@" >&-', '"$@" 2>&-', '"$@" <&- >&- 2>&-', '"$@" 2>/dev/full'])
def test_an_image_needs_no_streams(shell, line, work, model_folder):
    assert shell(line, "txt2img", "cat", "-m", model_folder, "-o", "a.png")[0] == 0
    assert Image.open("a.png").size == (16, 16)


@pytest.mark.parametrize("unbuffered", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "not"])
@pytest.mark.parametrize(
    ("argv", "unread", "code"),
    [
        (BAD, ["stderr"], 2),
        (["samplers"], ["stdout"], 141),
        (["samplers"], ["stdout", "stderr"], 141),
        (["samplers"], ["stderr"], 0),
    ],
)
def test_nobody_reads(argv, unread, code, unbuffered, work):
    reading, writing = os.pipe()
    os.close(reading)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    streams |= dict.fromkeys(unread, writing)
    try:
        ran = subprocess.run(
            [*LDMREF, *argv], env=environment() | unbuffered, timeout=60, **streams
        )
    finally:
        os.close(writing)
    assert ran.returncode == code


def test_reader_that_stops_early(work, model_folder):
    process = start("txt2img", "cat", "-m", model_folder, "-o", "-", "-q")
    assert process.stdout.read(1) == b"\x89"
    process.stdout.close()
    assert process.wait(60) in (0, 141) and process.stderr.read() == b""


@pytest.mark.parametrize(
    "data", [b"\xef\xbb\xbfred\r\nheart\r\n", "red\nheart\n".encode("utf-16"), b"red\nheart"]
)
def test_prompts_from_files(data, work, model_folder):
    process = start("txt2img", "-", "-m", model_folder, "--json", stdin=subprocess.PIPE)
    out, err = process.communicate(data, timeout=60)
    assert process.returncode == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["params"]["prompt"] for row in rows] == ["red", "heart"]


def test_every_finished_image_survives_a_kill(work, model_folder):
    flags = ["--steps", 20, "-c", 10_000, "--progress", "plain", "-o", "a.png"]
    process = start("txt2img", "cat", "-m", model_folder, *flags)
    for line in process.stderr:
        if line.startswith(b"image 5/"):
            process.kill()
            break
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    done = sorted(work.glob("*.png"))
    assert {p.name for p in done} >= {f"a-000{i}.png" for i in range(4)}
    for path in done:
        Image.open(path).load()


def test_a_full_disk_names_the_images_that_are_saved(work, model_folder):
    """The third image is larger than a file may become."""
    code = (
        "import resource, signal, sys\n"
        "from ldmref.apps.cli import main, output\n"
        "write = output.atomic_write\n"
        "def limited(path, **kwargs):\n"
        "    if path.name == 'a-2.png':\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))\n"
        "    return write(path, **kwargs)\n"
        "output.atomic_write = limited\n"
        "sys.exit(main.main(sys.argv[1:]))\n"
    )
    argv = ["txt2img", "cat", "-m", str(model_folder), "-c", "5", "-o", "a.png"]
    ran = subprocess.run(
        [sys.executable, "-c", code, *argv],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )
    assert ran.returncode == 8 and "error[E-WRITE]" in ran.stderr, ran.stderr
    assert "2 of 5 images are saved, a-0.png to a-1.png" in ran.stderr
    assert sorted(p.name for p in work.iterdir()) == ["a-0.png", "a-1.png"]


@pytest.mark.parametrize(
    ("module", "said"),
    [("ldmref.apps.cli", ""), ("ldmref.samplers", "ldmref: error[E-CANCELLED]: stopped\n")],
)
def test_ctrl_c_while_python_imports(work, module, said):
    """The program interrupts itself while it imports the command line, and then a command."""
    code = (
        "import builtins, os, signal, sys\n"
        "real = builtins.__import__\n"
        "def interrupting(name, *args, **named):\n"
        f"    if name.startswith({module!r}):\n"
        "        builtins.__import__ = real\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(name, *args, **named)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
        "from ldmref.__main__ import main\n"
        "builtins.__import__ = interrupting\n"
        "sys.exit(main())\n"
    )
    argv = [sys.executable, "-c", code, "samplers"]
    ran = subprocess.run(argv, capture_output=True, text=True, env=environment(), timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", said)


def test_the_package_itself_imports_nothing():
    """Before `ldmref.__main__` runs, nothing could answer Ctrl-C."""
    code = "import sys; before = set(sys.modules); import ldmref; print({*sys.modules} - before)"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert (ran.stdout, ran.stderr) == ("{'ldmref'}\n", "")


@pytest.mark.parametrize(
    "changes",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "POSIX", "TZ": "Pacific/Kiritimati"},
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "ascii", "TZ": "nonsense"},
    ],
    ids=str,
)
def test_locale_and_encoding(changes, work, model_folder):
    env = environment() | changes
    argv = ["txt2img", "-", "-m", model_folder, "-o", "a.png", "-v"]
    process = start(*argv, env=env, stdin=subprocess.PIPE)
    out, err = process.communicate("❤️ \x1b[2J שלום".encode(), timeout=60)
    assert process.returncode == 0 and b"Traceback" not in err and b"\x1b[2J" not in err, err
    code, out, err = run("info", "a.png", env=env)
    assert code == 0 and "\x1b" not in out, err


def test_nothing_in_the_environment(work, model_folder):
    """No HOME, no PATH, no temporary folder."""
    kept = {key: os.environ[key] for key in ("PYTHONPATH", "LD_LIBRARY_PATH") if key in os.environ}
    code, _, err = run("txt2img", "cat", "-m", model_folder, "-o", "a.png", env=kept)
    assert code == 0 and (work / "a.png").is_file(), err
    code, _, err = run("txt2img", "cat", "-m", "owner/model", env=kept | {"HOME": "/nowhere"})
    assert code == 3 and "error[E-MODEL]" in err


def test_read_only_folder(work, model_folder):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    work.chmod(0o500)
    try:
        code, _, err = run("txt2img", "cat", "-m", model_folder)
    finally:
        work.chmod(0o700)
    assert code == 8 and "error[E-WRITE]" in err and not list(work.iterdir())
