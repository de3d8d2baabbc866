"""Rows of the fault table that need another process: signals, pipes, disks, odd file names."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fault_cases import COMMAND_LINE, PYTHON, covers
from fault_models import tiny as tiny_with
from PIL import Image

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals, pipes and limits")

LDMREF = [sys.executable, "-m", "ldmref"]
SHORT = ["--steps", "1", "--seed", "0"]


def environment(**changes):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LDMREF_")}
    kept.pop("PYTHONUNBUFFERED", None)  # which hides failures to write at the end
    kept |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # a process whose files may not grow would leave half a .pyc for all others
    return kept | {"PYTHONDONTWRITEBYTECODE": "1"} | changes


def run(*argv, **options):
    options = {"capture_output": True, "env": environment(), "timeout": 300} | options
    return subprocess.run([*LDMREF, *map(str, argv)], **options)


def assert_refused(ran, code, exit_code):
    assert ran.returncode == exit_code, ran.stderr
    assert f"error[{code}]".encode() in ran.stderr and b"Traceback" not in ran.stderr


SHRINKING = """
import sys
from pathlib import Path
import ldmref
from ldmref import modes
model = ldmref.load(sys.argv[1])
path = Path(sys.argv[1]) / "model.safetensors"
with path.open("r+b") as file:
    file.truncate(100)
modes.txt2img(model, "cat", steps=1, seed=0)
print("drawn")
"""


@covers(26, "weights that are cut while a model uses them", PYTHON)
def test_file_that_shrinks(tmp_path):
    folder = tiny_with()(tmp_path)
    ran = subprocess.run(
        [sys.executable, "-c", SHRINKING, folder],
        capture_output=True,
        env=environment(),
        timeout=120,
    )
    assert ran.returncode >= 0, "killed by a signal"
    assert b"drawn" in ran.stdout or b"ldmref.errors" in ran.stderr


@covers(36, "bytes that are not UTF-8", COMMAND_LINE, code="E-PROMPT")
def test_argument_that_is_no_text(stage):
    assert_refused(
        run("txt2img", "-m", stage.model_folder, os.fsdecode(b"\xff\xfe")), "E-PROMPT", 2
    )


@covers(40, "prompts with BOM, CRLF, Latin-1 from standard input", COMMAND_LINE, code="E-PROMPT")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (b"red heart\r\n", "red heart"),
        (b"\xef\xbb\xbfred heart\n", "red heart"),
        ("café".encode("latin-1"), None),
    ],
)
def test_prompt_from_standard_input(stage, given, expected):
    argv = ["txt2img", "-", "-m", stage.model_folder, *SHORT, "-o", "a.png"]
    ran = run(*argv, input=given)
    if expected is None:
        return assert_refused(ran, "E-PROMPT", 2)
    assert ran.returncode == 0, ran.stderr
    assert Image.open("a.png").info["parameters"].splitlines()[0] == expected


@covers(40, "closed standard input", COMMAND_LINE, code="E-PROMPT")
def test_closed_standard_input(stage):
    line = f'exec "{sys.executable}" -m ldmref txt2img - -m "$0" <&-'
    ran = subprocess.run(
        ["sh", "-c", line, stage.model_folder], capture_output=True, env=environment(), timeout=60
    )
    assert ran.returncode == 2 and b"error[E-" in ran.stderr and b"Traceback" not in ran.stderr
    assert b"E-INTERNAL" not in ran.stderr


@covers(83, "Ctrl-C and SIGTERM while generating", COMMAND_LINE, code="E-CANCELLED")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_while_drawing(stage, number, code):
    argv = [
        *LDMREF,
        "txt2img",
        "cat",
        "-m",
        stage.model_folder,
        *SHORT,
        "-c",
        "10000",
        "--progress",
        "plain",
        "-o",
        "a.png",
    ]
    process = subprocess.Popen(list(map(str, argv)), stderr=subprocess.PIPE, env=environment())
    for line in process.stderr:
        if line.startswith(b"image 3/"):
            process.send_signal(number)
            break
    err = process.communicate(timeout=60)[1]
    assert process.returncode == code, err
    assert b"error[E-CANCELLED]" in err and b"Traceback" not in err
    done = sorted(stage.work.iterdir())
    assert len(done) >= 2 and all(path.suffix == ".png" for path in done)
    for path in done:
        Image.open(path).load()


def with_full_disk(size):
    """Return a function that limits the size of files, which looks like a full disk."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@covers(85, "a full disk while generating", COMMAND_LINE, code="E-WRITE")
def test_full_disk_while_drawing(stage):
    old = stage.work / "a.png"
    old.write_bytes(b"old")
    argv = ["txt2img", "cat", "-m", stage.model_folder, *SHORT, "-o", "a.png", "--overwrite"]
    assert_refused(run(*argv, preexec_fn=with_full_disk(100)), "E-WRITE", 8)
    assert [*stage.work.iterdir()] == [old] and old.read_bytes() == b"old"


@covers(85, "a full disk while converting", COMMAND_LINE, code="E-WRITE")
@pytest.mark.parametrize("out", ["out.safetensors", "out"])
def test_full_disk_while_converting(stage, out):
    ran = run("convert", stage.model_folder, out, preexec_fn=with_full_disk(5000))
    assert_refused(ran, "E-WRITE", 8)
    assert not list(stage.work.iterdir())


@covers(85, "a full disk while training", COMMAND_LINE, code="E-WRITE")
@pytest.mark.slow
def test_full_disk_while_training(stage):
    pytest.importorskip("torch")
    Image.new("RGB", (16, 16), "red").save(stage.inputs / "red.png")
    argv = [
        "train",
        "--data",
        stage.inputs,
        "-o",
        "out",
        "--preset",
        "tiny",
        "--autoencoder-steps",
        "1",
        "--batch",
        "1",
        "--autoencoder-batch",
        "1",
    ]
    assert_refused(run(*argv, "--steps", "1", preexec_fn=with_full_disk(50_000)), "E-WRITE", 8)
    assert not list(stage.work.rglob("*.part")) and not list(stage.work.rglob("*.safetensors"))
    assert run(*argv, "--steps", "1").returncode == 0
    weights = {path: path.read_bytes() for path in stage.work.rglob("*.safetensors")}
    more = [*argv, "--steps", "2", "--accept-changes"]
    assert_refused(run(*more, preexec_fn=with_full_disk(50_000)), "E-WRITE", 8)
    assert {path: path.read_bytes() for path in stage.work.rglob("*.safetensors")} == weights
    assert weights and not list(stage.work.rglob("*.part"))
    ran = run(*more)
    assert ran.returncode == 0 and b"2/2" in ran.stderr, ran.stderr


@covers(85, "a full standard output", COMMAND_LINE, code="E-STDOUT")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_standard_output(stage):
    with open("/dev/full", "wb") as full:
        ran = run(
            "txt2img",
            "cat",
            "-m",
            stage.model_folder,
            *SHORT,
            "-o",
            "-",
            capture_output=False,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert_refused(ran, "E-STDOUT", 8)


@covers(87, "four processes write to one folder", COMMAND_LINE)
def test_many_writers(stage):
    seeds = ["--steps", "1", "--seed", "0,0,0,0,0", "-q"]
    argv = [*LDMREF, "txt2img", "cat", "-m", stage.model_folder, *seeds]
    running = [subprocess.Popen(list(map(str, argv)), env=environment()) for _ in range(4)]
    assert [process.wait(120) for process in running] == [0] * 4
    files = list(stage.work.iterdir())
    assert len(files) == 20 and len({Image.open(path).tobytes() for path in files}) == 1


@covers(88, "no HOME, nothing in the environment", COMMAND_LINE)
def test_no_home(stage):
    kept = {k: v for k, v in os.environ.items() if k in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    ran = run("txt2img", "cat", "-m", stage.model_folder, *SHORT, "-o", "a.png", env=kept)
    assert ran.returncode == 0, ran.stderr
    assert [*stage.work.iterdir()] == [stage.work / "a.png"]


@covers(88, "a read-only folder", COMMAND_LINE, code="E-WRITE")
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root writes anywhere")
def test_read_only_folder(stage):
    stage.work.chmod(0o555)
    ran = run("txt2img", "cat", "-m", stage.model_folder, *SHORT)
    stage.work.chmod(0o755)
    assert_refused(ran, "E-WRITE", 8)


@covers(89, "nobody reads standard output", COMMAND_LINE)
def test_broken_pipe(stage):
    read, write = os.pipe()
    os.close(read)
    ran = run(
        "txt2img",
        "cat",
        "-m",
        stage.model_folder,
        *SHORT,
        "-o",
        "-",
        "-q",
        capture_output=False,
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert ran.stderr == b"" and ran.returncode == 141


@covers(89, "a full standard error", COMMAND_LINE)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(("steps", "code"), [("1", 0), ("0", 2)])
def test_full_standard_error(stage, steps, code):
    """The exit code is that of the command, though nothing can be said about it."""
    with open("/dev/full", "wb") as full:
        ran = run(
            "txt2img",
            "cat",
            "-m",
            stage.model_folder,
            "--steps",
            steps,
            "-o",
            "a.png",
            capture_output=False,
            stdout=subprocess.PIPE,
            stderr=full,
        )
    assert ran.returncode == code and (stage.work / "a.png").exists() == (code == 0)


@covers(89, "closed standard output and standard error", COMMAND_LINE)
@pytest.mark.parametrize(
    ("command", "closed"),
    [
        ("txt2img cat --steps 1 -o a.png", ">&-"),
        ("txt2img cat --steps 1 -o a.png", ">&- 2>&-"),
        ("samplers", ">&-"),
    ],
)
def test_closed_streams(stage, closed, command):
    model = f"-m {stage.model_folder}" if command.startswith("txt2img") else ""
    line = f'exec "{sys.executable}" -m ldmref {command} {model} {closed}'
    ran = subprocess.run(["sh", "-c", line], capture_output=True, env=environment(), timeout=60)
    assert ran.returncode in ((0,) if model else (0, 8, 141))
    assert b"Traceback" not in ran.stderr and b"E-INTERNAL" not in ran.stderr
    if model:
        Image.open(stage.work / "a.png").load()


VARIED = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252", "PYTHONHASHSEED": "0"},
    "Turkish, Auckland": {"LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Auckland", "PYTHONHASHSEED": "1",
                          "PYTHONOPTIMIZE": "2", "COLUMNS": "20"},
    "German, two threads": {"LC_ALL": "de_DE.UTF-8", "TZ": "America/St_Johns",
                            "PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "2",
                            "OPENBLAS_NUM_THREADS": "2"},
}  # fmt: skip
COMMANDS = """
import sys
from ldmref.apps.cli.main import main
model, heart = sys.argv[1], "\\u2764\\ufe0f caf\\u00e9"
common = ["-m", model, "--steps", "2", "--seed", "5"]
for argv in (
    ["txt2img", heart, *common, "-o", "a.png", "-c", "2", "--sampler", "euler_a"],
    ["txt2img", heart, *common, "-o", "b.webp", "--rng", "torch"],
    ["img2img", "cat", *common, "-i", "a-0.png", "--strength", "0.5", "-o", "c.png"],
    ["run", "--from", "a-0.png", "-m", model, "-o", "d.png"],
    ["convert", model, "e.safetensors"],
    ["info", "a-0.png"],
    ["samplers"],
):
    if main(argv):
        sys.exit(f"failed: {argv}")
"""


@pytest.fixture(scope="module")
def usual(tiny_folder, tmp_path_factory):
    """Return the files and the output of the commands in the usual environment."""
    return outputs(tiny_folder, tmp_path_factory.mktemp("usual"), {})


def outputs(model, folder, changes):
    ran = subprocess.run(
        [sys.executable, "-c", COMMANDS, model],
        capture_output=True,
        cwd=folder,
        env=environment(**changes),
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@covers(92, "locale, time zone, hash seed, threads: the same bytes", COMMAND_LINE)
@covers(95, "LANG=C and cp1252 with an emoji prompt", COMMAND_LINE)
@pytest.mark.parametrize("title", VARIED)
def test_environment_does_not_matter(usual, tiny_folder, tmp_path, title):
    assert outputs(tiny_folder, tmp_path, VARIED[title]) == usual and len(usual) == 6


CONNECTING = """
import sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request"):
        sys.exit(f"network: {event} {arguments}")
sys.addaudithook(hook)
from ldmref.apps.cli.main import main
codes = [main(argv.split()) for argv in sys.argv[2:]]
sys.exit(0 if codes == [0] * len(codes) else f"failed: {codes}")
"""


@covers(113, "no connection, whatever is generated", COMMAND_LINE)
def test_no_network(stage):
    common = f"-m {stage.model_folder} --steps 1 --seed 0"
    argv = [
        f"txt2img cat {common} -o a.png",
        "info a.png",
        "samplers",
        "models",
        f"img2img cat {common} -i a.png -o b.png --strength 1",
    ]
    ran = subprocess.run(
        [sys.executable, "-c", CONNECTING, "x", *argv],
        capture_output=True,
        env=environment(),
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr


@covers(113, "the tests themselves reach this machine only", PYTHON)
def test_network_is_blocked():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        socket.create_connection(server.getsockname(), timeout=10).close()
    for host in ("192.0.2.1", "example.org"):
        with pytest.raises(RuntimeError, match="without a network"):
            socket.create_connection((host, 80), timeout=1)


def test_audit_hook_sees_connections():
    code = CONNECTING.replace(
        "codes = ", "import socket; socket.socket().connect(('127.0.0.1', 1))\ncodes = "
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment())
    assert ran.returncode == 1 and b"network: socket.connect" in ran.stderr
