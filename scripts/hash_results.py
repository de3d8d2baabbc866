"""Print a digest of everything that a checkout computes from fixed seeds, a line each.

Run it in two checkouts on one machine and compare: a refactoring changes no line.

    python scripts/hash_results.py > after.txt
    git worktree add /tmp/before main && cd /tmp/before
    PYTHONPATH=. python scripts/hash_results.py > /tmp/before.txt && diff /tmp/before.txt after.txt

Images of every mode and family, what they record, traces, golden cases, the server's interface and
the help of every command are digested. Times, versions and paths are not.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.apps.server.app import create_app
from ldmref.apps.server.engine import Engine

PRESETS = ("tiny", "sd3-tiny", "flux-tiny")
GUIDANCES = {
    "tiny": ("cfg", "pag", "nag", "apg"),
    "sd3-tiny": ("cfg", "slg", "nag"),
    "flux-tiny": ("cfg", "nag"),
}
CASES = ("sd15", "sdxl", "sd3-medium", "flux-dev")
BACKENDS = ("numpy", "torch")


def digest(content: bytes | str) -> str:
    """Return the first digits of a SHA-256."""
    raw = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(raw).hexdigest()[:16]


def digest_result(result: Any) -> tuple[str, str]:
    """Return the digests of a result's images and latents, and of its records."""
    arrays = [np.asarray(result.latents), *(np.asarray(image) for image in result.images)]
    records = json.dumps([result.params, result.warnings], sort_keys=True, default=str)
    return digest(b"".join(x.tobytes() for x in arrays)), digest(records)


def hash_images() -> Iterator[tuple[str, str]]:
    """Yield digests of images of every mode."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
    mask = Image.fromarray((np.eye(32) * 255).astype(np.uint8))
    for backend in BACKENDS:
        for preset in PRESETS:
            model = ldmref.random_model(preset, backend=backend)
            size = {"width": 32, "height": 32, "steps": 3, "seed": 5}
            runs = {
                "txt2img": lambda m, s: modes.txt2img(m, "a red cat", cfg_scale=3.0, **s),
                "count": lambda m, s: modes.txt2img(m, ["a cat", "a dog"], count=2, **s),
                "img2img": lambda m, s: modes.img2img(m, "a cat", picture, strength=0.7, **s),
                "inpaint": lambda m, s: modes.inpaint(m, "a cat", picture, mask, **s),
                "interpolate": lambda m, s: modes.interpolate(
                    m, "a cat", "a dog", positions=3, **s
                ),
            }
            for name, run in runs.items():
                yield from try_run(f"{backend}/{preset}/{name}", run, model, size)
            for guidance in GUIDANCES[preset]:

                def run(m: Any, s: dict, rule: str = guidance) -> Any:
                    return modes.txt2img(m, "a cat", guidance=rule, cfg_scale=2.0, **s)

                yield from try_run(f"{backend}/{preset}/{guidance}", run, model, size)


def try_run(name: str, run: Any, model: Any, size: dict) -> Iterator[tuple[str, str]]:
    """Yield the digests of a run, or of the line with which it is refused."""
    try:
        images, records = digest_result(run(model, size))
    except ldmref.errors.LdmrefError as error:
        yield name, f"refused: {error}"
        return
    yield f"{name}/images", images
    yield f"{name}/records", records


def hash_command(*arguments: str, folder: Path | None = None) -> str:
    """Return the digest of what a command prints, or of the files that it writes."""
    command = [sys.executable, "-m", "ldmref", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if folder is None:
        return f"{done.returncode} {digest(done.stdout)}"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return f"{done.returncode} " + digest(b"".join(path.read_bytes() for path in files))


def hash_commands() -> Iterator[tuple[str, str]]:
    """Yield digests of help, schemas, golden cases and a trace."""
    done = subprocess.run(
        [sys.executable, "-m", "ldmref", "--help"], capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    names = [found[1] for line in lines if (found := re.match(r"  ([a-z0-9]+)  +\S", line))]
    for name in names:
        yield f"help/{name}", hash_command(name, "--help")
    for mode in ("txt2img", "img2img", "inpaint", "interpolate"):
        yield f"schema/{mode}", digest(json.dumps(modes.schema(mode), sort_keys=True))
    for command in (["samplers"], ["guidance"], ["models"], ["models", "--json"]):
        yield "print/" + " ".join(command), hash_command(*command)
    for family in CASES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "cases"
            made = hash_command(
                "cases", "make", "-o", str(folder), "--family", family, folder=folder
            )
            yield f"cases/{family}", made
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "trace"
        hash_command("trace", "a red heart", "--steps", "2", "--seed", "3", "-o", str(folder))
        tensors = sorted(folder.rglob("*.safetensors"))
        yield "trace/emoji", digest(b"".join(path.read_bytes() for path in tensors))


def hash_interface() -> Iterator[tuple[str, str]]:
    """Yield the digest of the description of the server's interfaces."""
    engine = Engine({"tiny": ldmref.random_model("tiny")})
    described = asyncio.run(ask(create_app(engine), "/openapi.json"))
    engine.close()
    content = json.loads(described)
    assert content["paths"] and content["components"]
    yield "openapi", digest(json.dumps(content, sort_keys=True))


async def ask(app: Any, path: str) -> bytes:
    """Return the body that an ASGI application answers to a GET request of this machine."""
    body = bytearray()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        body.extend(message.get("body", b""))

    asked = {"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": ""}
    sides = {"client": ("127.0.0.1", 50000), "server": ("127.0.0.1", 7860)}
    kind = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET"}
    headers = [(b"host", b"127.0.0.1:7860")]
    scope = kind | asked | sides | {"scheme": "http", "headers": headers}
    await app(scope, receive, send)
    return bytes(body)


def main() -> None:
    """Print all digests."""
    for name, value in [*hash_images(), *hash_commands(), *hash_interface()]:
        print(f"{name}\t{value}", flush=True)


if __name__ == "__main__":
    main()
