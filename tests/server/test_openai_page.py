"""The page about clients does what it says, and so does its example."""

import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

from ldmref.apps.cli.serve import serve as serve_command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "server-clients.md").read_text("utf-8")
EXAMPLE = ROOT / "examples" / "test_image_client.py"
PYTHON = re.findall(r"```python\n(.*?)```(?:\n```text\n(.*?)```)?", PAGE, re.DOTALL)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_the_blocks_of_the_page(serve, emoji, tmp_path, capsys):
    port = serve({"emoji": emoji}).url.rpartition(":")[2]
    blocks = [(code, printed) for code, printed in PYTHON if "7860" in code]
    assert len(blocks) == 2
    for number, (code, printed) in enumerate(blocks):
        path = tmp_path / f"block{number}.py"
        path.write_text(code.replace("7860", port))
        runpy.run_path(str(path))
        out = capsys.readouterr().out
        assert out == printed or (not printed and "128x128 instead of 512x512" in out)


def test_the_commands_of_the_page():
    """The server takes these flags; its own tests start it."""
    commands = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert len(commands) == 2
    for command in commands:
        program, name, *flags = command.split()
        assert (program, name) == ("ldmref", "serve")
        assert serve_command.make_context("serve", flags).params["models"] == ()


def test_the_page_shows_the_example():
    assert [code for code, _ in PYTHON if "8188" in code] == [EXAMPLE.read_text("utf-8")]


def test_the_example_passes(tmp_path):
    copied = tmp_path / EXAMPLE.name
    copied.write_text(EXAMPLE.read_text("utf-8").replace("8188", str(free_port())))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", copied]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0 and "1 passed" in ran.stdout, ran.stdout + ran.stderr
