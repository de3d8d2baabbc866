"""The static pages of docs/_browser: their JavaScript in Node, and a plain file host for them."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "docs" / "_browser" / "js" / "core"
for folder in ("docs/_ext", "scripts"):
    sys.path.insert(0, str(ROOT / folder))


def run_node(module: str, script: str, given: Any, folder: Path = CORE) -> Any:
    """Run a script that returns a value, with the exports of a module as `m`; values are JSON."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("the static pages: no node on this machine (apt-get install nodejs)")
    address = json.dumps((folder / f"{module}.js").as_uri())
    text = f"""
      import {{ readFileSync }} from "node:fs";
      const given = JSON.parse(readFileSync(0, "utf8"));
      const m = await import({address});
      const result = await (async () => {{ {script} }})();
      const plain = (_, value) => (ArrayBuffer.isView(value) ? [...value] : value);
      process.stdout.write(JSON.stringify(result, plain));
    """
    command = [node, "--input-type=module", "-e", text]
    done = subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class QuietHandler(SimpleHTTPRequestHandler):
    """`python -m http.server` without its log, and with further headers."""

    def __init__(self, *arguments: Any, headers_to_add: Mapping[str, str], **options: Any):
        self.headers_to_add = headers_to_add
        super().__init__(*arguments, **options)

    def end_headers(self) -> None:
        """Add the further headers."""
        for name, value in self.headers_to_add.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""


@contextlib.contextmanager
def serve_folder(folder: Path, headers: Mapping[str, str] = MappingProxyType({})) -> Iterator[str]:
    """Serve a folder as `python -m http.server` does, and yield the address."""
    handler = functools.partial(QuietHandler, directory=str(folder), headers_to_add=headers)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()
