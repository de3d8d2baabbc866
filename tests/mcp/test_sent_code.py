"""Code that an agent sends: every call is answered, whatever the code does to its process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from ldmref.apps.mcp.sent_code import check_sent_formula
from ldmref.errors import Cancelled, ResourceError, UsageError

NAME = "classifier_free_guidance"
FUNCTION = f"def {NAME}(uncond, cond, scale):\n    "
RIGHT = FUNCTION + "return uncond + scale * (cond - uncond)\n"

# What the code does -> what the answer says; None: the formula holds.
CODE = {
    "raises SystemExit in the function": ("import sys\n" + FUNCTION + "sys.exit(0)", "SystemExit"),
    "raises SystemExit at import": ("raise SystemExit('bye')", "bye"),
    "raises KeyboardInterrupt at import": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "raises KeyboardInterrupt": (FUNCTION + "raise KeyboardInterrupt", "KeyboardInterrupt"),
    "ends the process": ("import os\n" + FUNCTION + "os._exit(3)", "exit code 3"),
    "kills the process": ("import os\nos.kill(os.getpid(), 9)", "exit code -9"),
    "reads standard input": ("import sys\nassert sys.stdin.read() == ''\n" + RIGHT, None),
    "reads descriptor 0": ("import os\nassert os.read(0, 9) == b''\n" + RIGHT, None),
    "writes to descriptor 1": ("import os\nos.write(1, b'x\\n')\nprint('y')\n" + RIGHT, None),
}


def messages(*codes):
    """Return calls of `check_formula`, one message a line."""
    return b"".join(
        json.dumps({"jsonrpc": "2.0", "id": i, "method": "tools/call",
                    "params": {"name": "check_formula",
                               "arguments": {"name": NAME, "code": code, "cases": 1}}}).encode()
        + b"\n"
        for i, code in enumerate(codes)
    )  # fmt: skip


def test_every_call_is_answered_whatever_the_code_does():
    run = subprocess.run(
        [sys.executable, "-m", "ldmref", "mcp"],
        input=messages(*(code for code, _ in CODE.values())),
        stdout=subprocess.PIPE,
        timeout=300,
    )
    answers = [json.loads(line) for line in run.stdout.splitlines()]  # nothing else is there
    assert run.returncode == 0 and [answer["id"] for answer in answers] == [*range(len(CODE))]
    for (_, words), answer in zip(CODE.values(), answers, strict=True):
        [content] = answer["result"]["content"]
        assert answer["result"]["isError"] == (words is not None)
        assert words in content["text"] if words else json.loads(content["text"])["holds"]


def test_code_that_never_returns_ends_when_the_call_is_cancelled(tmp_path):
    started = tmp_path / "pid"
    code = f"import os\nopen({str(started)!r}, 'w').write(str(os.getpid()))\nwhile True: pass\n"
    cancel = threading.Event()

    def cancel_when_it_runs():
        while not started.is_file() or not started.read_text():
            time.sleep(0.05)
        cancel.set()

    threading.Thread(target=cancel_when_it_runs, daemon=True).start()
    with pytest.raises(Cancelled):
        check_sent_formula({"name": NAME, "code": code}, cancel)
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_code_has_a_time_limit_and_takes_its_children_along(tmp_path):
    child = tmp_path / "pid"
    code = "import subprocess, time\n"
    code += f"open({str(child)!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid))\n"
    code += "time.sleep(600)\n"
    with pytest.raises(ResourceError, match="more than 15 seconds"):
        check_sent_formula({"name": NAME, "code": code}, threading.Event(), limit=15)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = open(f"/proc/{child.read_text()}/stat").read().split()[2]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the process that the code started still runs")


def test_an_error_of_the_check_keeps_its_code_and_hint():
    with pytest.raises(UsageError, match="unknown formula") as caught:
        check_sent_formula({"name": "classifier_free_guide", "code": RIGHT}, threading.Event())
    assert caught.value.code == "E-FORMULA" and NAME in caught.value.hint
