"""The imports between the scripts of the page, so that a browser can fetch them all at once."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

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
