"""Run a page as a reader would, in a separate Python: `python reader.py STEPS.json`.

The steps are blocks of the page in their order. Python blocks share one session; commands run in a
shell in the working folder. Prints a JSON line for each step, and stops at the first that fails.
`python reader.py ldmref ...` is the command line, with small stand-ins where the environment says
so: see `stand_ins.py`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

STARTED = 240  # seconds until a training must have saved its first step
SHELL_STEP = """{line}
code=$?
[ $code -eq {exit} ] || {{ echo "exit code $code, expected {exit}: "{quoted} >&2; exit 99; }}
"""


def run_shell(lines: list[dict[str, Any]]) -> tuple[bool, str]:
    """Run lines in one shell, each with the exit code that it should have."""
    quote = __import__("shlex").quote
    script = "".join(
        SHELL_STEP.format(line=line["text"], exit=line["exit"], quoted=quote(line["text"]))
        for line in lines
    )
    ran = subprocess.run(["sh", "-c", script], input="red heart\n", capture_output=True, text=True)
    return ran.returncode == 0, ran.stdout + ran.stderr


def run_python(code: str, title: str, names: dict[str, Any]) -> tuple[bool, str]:
    """Run a block in the session; its tests, if it defines any, run too."""
    printed = io.StringIO()
    before = set(names)
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code, title, "exec"), names)
            for name in [n for n in names if n.startswith("test_") and n not in before]:
                names[name]()
    except BaseException:
        return False, printed.getvalue() + traceback.format_exc()
    return True, printed.getvalue()


def begin(command: str) -> tuple[bool, str]:
    """Start a long training, and stop it by Ctrl-C when it has saved its first step."""
    start = time.time()
    before = set(Path().rglob("*.safetensors"))
    with open("begun.log", "w+") as log:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {command}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        while process.poll() is None and time.time() < start + STARTED:
            if set(Path().rglob("*.safetensors")) - before:
                break
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STARTED)
        except subprocess.TimeoutExpired:
            process.kill()
        log.seek(0)
        output = log.read()
    return process.wait() == 130, f"exit code {process.returncode}, expected 130\n{output}"


def main(path: str) -> None:
    stand_in()
    sys.path.insert(0, "")
    with contextlib.suppress(ImportError):
        from hypothesis import HealthCheck, settings

        settings.register_profile("busy", deadline=None, suppress_health_check=list(HealthCheck))
        settings.load_profile("busy")
    names: dict[str, Any] = {"__name__": "reader"}
    for step in json.loads(Path(path).read_text()):
        if step["kind"] == "shell":
            passed, output = run_shell(step["lines"])
        elif step["kind"] == "begin":
            passed, output = begin(step["text"])
        else:
            passed, output = run_python(step["text"], step["title"], names)
        os.write(1, json.dumps({"passed": passed, "output": output}).encode() + b"\n")
        if not passed:
            break


def stand_in() -> None:
    """Small checkpoints for large ones, and squares for the emoji font, where these are asked."""
    folder = os.environ.get("STAND_INS")
    if folder:
        sys.path.insert(0, folder)
        import stand_ins

        stand_ins.install()


if __name__ == "__main__":
    if sys.argv[1] == "ldmref":
        stand_in()
        from ldmref.__main__ import main as command

        sys.argv[:2] = ["ldmref"]
        sys.exit(command())
    main(sys.argv[1])
