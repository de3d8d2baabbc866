"""The web page: static files, served from a table that is made when the server starts."""

from __future__ import annotations

import hashlib
import mimetypes
import posixpath
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
INDEX = "index.html"
FOLDER = "page"
VERSION = re.compile(r"v-[0-9a-f]{16}/")
NO_CACHE = "no-cache"
IMMUTABLE = "public, max-age=31536000, immutable"


class StaticFile(NamedTuple):
    """A file of the page."""

    content: bytes
    media_type: str
    etag: str


def read_files() -> dict[str, StaticFile]:
    """Return the files of the page by their path below `/page/`.

    `index.html` names the others by addresses with a digest of all of them, `/page/v-.../`, so a
    browser may keep those; the scripts have relative addresses.
    """
    contents = dict(read_folder(resources.files("ldmref.apps.server") / FOLDER))
    scripts = {name: text.decode() for name, text in contents.items() if name.endswith(".js")}
    digest = hashlib.sha256(b"".join(contents[name] for name in sorted(contents))).hexdigest()
    index = add_preloads(contents[INDEX].decode(), scripts)
    contents[INDEX] = index.replace('="/page/', f'="/page/v-{digest[:16]}/').encode()
    return {name: make_file(name, content) for name, content in contents.items()}


def read_folder(folder: Any, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield the path and the content of every file in a folder of the package."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from read_folder(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry.read_bytes()


def make_file(name: str, content: bytes) -> StaticFile:
    """Return a file with its media type, and a digest as its tag."""
    ending = name[name.rfind(".") :]
    media_type = TYPES.get(ending) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return StaticFile(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def routes() -> list[Route]:
    """Return the routes of the page: `/` and `/page/...`."""
    files = read_files()
    version = VERSION.search(files[INDEX].content.decode())
    assert version

    async def index(request: Request) -> Response:
        """Get the web page."""
        return send(request, files[INDEX])

    async def file(request: Request) -> Response:
        """Get a file of the web page."""
        path = request.path_params["name"]
        name = VERSION.sub("", path, count=1) if VERSION.match(path) else path
        if name not in files:
            raise HTTPException(404)
        # A tab that was opened before the server was replaced asks for another version.
        return send(request, files[name], IMMUTABLE if path.startswith(version[0]) else NO_CACHE)

    return [Route("/", index, methods=["GET"]), Route("/page/{name:path}", file, methods=["GET"])]


def is_known(values: list[str], etag: str) -> bool:
    """Return whether a client has a file, by the tags of its If-None-Match (RFC 9110, 13.1.2).

    Weak tags count, as in caches that compress.

    >>> is_known(['W/"a", "b"'], '"b"'), is_known(["*"], '"b"'), is_known(['"a"'], '"b"')
    (True, True, False)
    """
    tags = [tag.strip().removeprefix("W/") for value in values for tag in value.split(",")]
    return etag in tags or tags == ["*"]


def send(request: Request, file: StaticFile, caching: str = NO_CACHE) -> Response:
    """Return a file, or only that it has not changed."""
    headers = {"ETag": file.etag, "Cache-Control": caching}
    if is_known(request.headers.getlist("if-none-match"), file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, 200, headers, file.media_type)


# -- the imports between scripts ------------------------------------------------------------------


# `import ... from "./name.js"` and `export ... from`; not `import("./name.js")`, which waits.
STATIC_IMPORT = re.compile(
    r"""^(?:import|export)\s+(?:[^;"'()]*?from\s+)?["'](\.[^"']+)["']""", re.MULTILINE
)
PRELOAD = re.compile(r'^( *<link rel="modulepreload" href="/page/)([^"]+)(">\n)', re.MULTILINE)


def list_imports(name: str, text: str) -> list[str]:
    """Return the paths of the scripts that a script imports, in its order.

    Args:
        name: The path of the script.
        text: Its source.

    >>> list_imports("js/a/b.js", 'import { h } from "../dom.js";\\nimport("./later.js");')
    ['js/dom.js']
    """
    folder = posixpath.dirname(name)
    found = STATIC_IMPORT.findall(text)
    return [posixpath.normpath(posixpath.join(folder, path)) for path in found]


def list_needed(name: str, scripts: Mapping[str, str]) -> list[str]:
    """Return a script and everything that it needs, the nearest first.

    Args:
        name: The path of the script.
        scripts: All scripts by path.

    >>> list_needed("a.js", {"a.js": 'import "./b.js";', "b.js": 'import "./a.js";'})
    ['a.js', 'b.js']
    """
    needed = [name]
    for one in needed:  # which grows
        needed += dict.fromkeys(
            path for path in list_imports(one, scripts[one]) if path not in needed
        )
    return needed


def add_preloads(index: str, scripts: Mapping[str, str]) -> str:
    """Return a page in which each link to a module is followed by links to what it needs.

    A browser learns of an import when it has read the script that contains it: a chain of five
    imports takes five round trips, and these links take one.

    Args:
        index: The HTML of the page, with a line `<link rel="modulepreload" href="/page/...">` for
            each script at which a chain begins.
        scripts: The scripts by their path below `/page/`.
    """

    def extend(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        return "".join(f"{start}{one}{end}" for one in list_needed(name, scripts))

    return PRELOAD.sub(extend, index)
