"""`ldmref serve` in a separate process: addresses, settings, signals, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx2 as httpx
import pytest

from ldmref.apps.cli.main import main
from ldmref.apps.cli.serve import read_settings
from ldmref.apps.server.running import open_socket
from ldmref.errors import OutputError, UsageError
from ldmref.io.native import save_folder
from ldmref.support.config import settings
from ldmref.support.server_settings import ServerSettings

SECONDS = 60.0
BODY = {"parameters": {"prompt": "a cat", "steps": 2, "seed": 1}}
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny):
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_folder(path, tiny.config, tiny.params, [tiny.tokenizer])
    return path


def environment(**more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LDMREF_")}
    return kept | {"OMP_NUM_THREADS": "1"} | more


@contextlib.contextmanager
def running(*argv, cwd, **variables):
    """Start `ldmref serve ARGV`; yield the process, its URL and the list of its lines."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ldmref", "serve", *map(str, argv)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment(**variables),
    )
    lines = []
    found = threading.Event()

    def read():
        for line in process.stderr:
            lines.append(line)
            if "http://" in line:
                found.set()
        found.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert found.wait(SECONDS)
        address = re.search(r"http://\S+", "".join(lines))
        assert address, "".join(lines)
        wait_for(address[0])
        yield process, address[0], lines
    finally:
        process.kill()
        process.wait(SECONDS)
        reader.join(SECONDS)


def wait_for(url):
    end = time.monotonic() + SECONDS
    while True:
        try:
            return httpx.get(f"{url}/healthz", timeout=5.0)
        except httpx.TransportError:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_json_prints_the_address_and_the_models(folder, tmp_path):
    command = [sys.executable, "-m", "ldmref", "serve", "-m", f"a={folder}", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
        env=environment(),
    )
    try:
        row = json.loads(process.stdout.readline())
        assert row["models"] == ["a"] and wait_for(row["url"]).status_code == 200
    finally:
        process.kill()
        process.wait(SECONDS)
        process.stdout.close()


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it_in_order(folder, tmp_path, number, code):
    arguments = ("-m", f"small={folder}", "--port", "0")
    variables = {"LDMREF_BACKEND": "numpy"}
    with running(*arguments, cwd=tmp_path, **variables) as (process, url, lines):
        assert httpx.post(f"{url}/v1/generate", json=BODY, timeout=60).content[:4] == b"\x89PNG"
        long = {"parameters": {"prompt": "a cat", "steps": 1000, "count": 60}}
        job = httpx.post(f"{url}/v1/jobs", json=long).json()
        with httpx.stream("GET", url + job["events"], timeout=60) as stream:
            events = stream.iter_lines()
            assert any(line == "event: progress" for line in events)
            begun = time.monotonic()
            process.send_signal(number)
            assert "event: cancelled" in list(events)
        assert process.wait(SECONDS) == code
        assert time.monotonic() - begun < 30.0  # 5 s on an idle machine
    assert lines == [
        f"ldmref: serving small on {url}  (Ctrl-C stops it)\n",
        "ldmref: computing on numpy: chosen by LDMREF_BACKEND\n",
        "ldmref: stopped\n",
    ]


def test_flags_come_before_variables_and_variables_before_the_file(tmp_path, monkeypatch):
    file = tmp_path / "ldmref.toml"
    file.write_text(
        "[server]\nqueue = 3\nport = 8001\nallow_host = ['a', 'b']\npage = false\n"
        "insecure_no_token = true\n"
    )
    environ = {"LDMREF_SERVER_PORT": "8002", "LDMREF_SERVER_ALLOW_ORIGIN": "http://x, http://y"}
    environ |= {"LDMREF_SERVER_INSECURE_NO_TOKEN": "0", "LDMREF_SERVER_LIFETIME": "1.5"}
    configured = settings(file, environ)
    read = read_settings(configured, {"queue": 5, "token": None, "allow_host": ()}, False)
    assert read == ServerSettings(
        queue=5,
        port=8002,
        allow_host=("a", "b"),
        allow_origin=("http://x", "http://y"),
        page=False,
        lifetime=1.5,
        insecure_no_token=False,
    )
    assert read_settings(settings(None, {}), {"port": 0}, True) == ServerSettings(
        port=0, page=False
    )


def test_config_show_prints_the_settings_of_the_server(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDMREF_SERVER_PORT", "8001")
    (tmp_path / "ldmref.toml").write_text("[server]\npage = false\nallow_host = ['a', 'b']\n")
    assert main(["config", "show", "--origin"]) == 0
    shown = capfd.readouterr().out.split("[server]\n")[1].splitlines()
    assert [line.split()[-1] for line in shown] == [
        "ldmref.toml",
        "ldmref.toml",
        "LDMREF_SERVER_PORT",
    ]
    values = [line.partition("#")[0].strip() for line in shown]
    assert values == ['allow_host = ["a", "b"]', "page = false", "port = 8001"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"LDMREF_SERVER_PORT": "http"}, "LDMREF_SERVER_PORT must be a whole number"),
        ({"LDMREF_SERVER_PORT": "70000"}, "LDMREF_SERVER_PORT: port must be .* to 65535"),
        ({"LDMREF_SERVER_PAGE": "maybe"}, "LDMREF_SERVER_PAGE must be 1 or 0"),
        ({"LDMREF_SERVER_PROT": "1"}, "unknown environment variable LDMREF_SERVER_PROT"),
        ({"LDMREF_SERVER_LIFETIME": "nan"}, "LDMREF_SERVER_LIFETIME: lifetime must be a number"),
    ],
)
def test_variables_that_are_refused(values, words):
    with pytest.raises(UsageError, match=words):
        read_settings(settings(None, values), {}, False)


def test_keys_of_the_file_that_are_refused(tmp_path):
    file = tmp_path / "ldmref.toml"
    file.write_text("[server]\nprot = 1\n")
    with pytest.raises(UsageError, match=r"unknown key server\.prot"):
        settings(file, {})


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("127.0.0.1.example.com", False),
        ("127.example.com", False),
        ("", False),
    ],
)
def test_which_addresses_are_local(host, local):
    assert ServerSettings(host=host).is_local is local


def test_an_open_address_needs_a_token():
    with pytest.raises(UsageError, match="without a token") as caught:
        open_socket(ServerSettings(host="0.0.0.0", port=0))
    assert caught.value.exit_code == 2 and "--insecure-no-token" in caught.value.hint
    for more in ({"token": "secret"}, {"insecure_no_token": True}):
        open_socket(ServerSettings(host="0.0.0.0", port=0, **more)).close()


def test_a_port_in_use_exits_with_8(folder, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code = main(["serve", "-m", str(folder), "--port", str(port)])
    said = capfd.readouterr().err
    assert code == 8 and f"cannot listen on 127.0.0.1 port {port}" in said
    assert "hint: --port N takes another port" in said


@pytest.mark.parametrize("host", ["256.1.1.1", "no such host", "192.0.2.1", "x" * 300])
def test_an_address_that_does_not_exist_here(host):
    with pytest.raises(OutputError, match="cannot listen"):
        open_socket(ServerSettings(host=host, port=0, token="secret"))


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--port", "99999"], 2, "port must be"),
        (["--port", "x"], 2, "--port"),
        (["--lifetime", "nan"], 2, "lifetime must be"),
        (["--host", "0.0.0.0"], 2, "without a token"),
        (["--model", "nothing"], 3, "nothing"),
        (["--model", "a=emoji", "--model", "a=emoji"], 2, "two models are named 'a'"),
        (["--controlnet", "edges=nowhere"], 3, "no ControlNet 'nowhere'"),
        (["--controlnet", "=edges"], 2, "--controlnet must be PATH or NAME=PATH"),
        (["--backend", "numpyy"], 2, "numpyy"),
        (["extra"], 2, "unexpected"),
    ],
)
def test_what_the_command_refuses(argv, code, words, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["serve", *([] if "--port" in argv else ["--port", "0"]), *argv]) == code
    lines = capfd.readouterr().err.splitlines()
    assert words in lines[0] and len(lines) <= 2


def test_without_the_extra_it_says_what_to_install(tmp_path):
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('starlette', 'uvicorn'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from ldmref.__main__ import main\n"
        "sys.argv = ['ldmref', 'serve']\n"
        "sys.exit(main())\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
    )
    assert ran.returncode == 5, ran.stderr
    first, hint = ran.stderr.splitlines()
    assert "which is not installed" in first and hint == "hint: pip install 'ldmref[server]'"


def test_nothing_else_loads_the_web_libraries():
    code = (
        "import sys, ldmref.modes, ldmref.apps.cli.main\n"
        "import ldmref.apps.server.engine, ldmref.apps.server.inputs\n"
        "dict(ldmref.apps.cli.main.cli.commands)\n"
        "loaded = {'starlette', 'uvicorn', 'anyio', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(f'loaded {sorted(loaded - {\"asyncio\"})}' if loaded - {'asyncio'} else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_folders_of_loras_words_styles_and_wildcards(folder, tmp_path):
    """They do not clash with the flags by which other commands load a model."""
    for name in ("loras", "words", "wild"):
        (tmp_path / name).mkdir()
    (tmp_path / "loras" / "broken.safetensors").write_bytes(b"x")
    (tmp_path / "wild" / "colour.txt").write_text("red\n")
    (tmp_path / "styles.csv").write_text("name,prompt,negative_prompt\nink,ink,\n")
    flags = ["--lora-folder", "loras", "--embedding-folder", "words", "--wildcards", "wild"]
    command = ["--model", folder, "--port", "0", *flags, "--styles", "styles.csv"]
    with running(*command, cwd=tmp_path) as (_, url, lines):
        answer = httpx.get(url + "/v1/capabilities").json()
        assert (answer["wildcards"], len(answer["styles"])) == (["colour"], 1)
        assert answer["models"][0]["loras"] == answer["models"][0]["embeddings"] == []
        assert any("warning: broken.safetensors is left out" in line for line in lines)
