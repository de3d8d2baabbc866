"""Public names in `code` become links to the API reference."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

NAME = re.compile(r"(?:ldmref\.)?[A-Za-z_][\w.]*(?=$|\()")


def candidates(name: str, docname: str) -> list[str]:
    """Return the full names that a name may stand for on a page."""
    if docname.startswith("api/"):
        package = docname.removeprefix("api/").partition("/")[0]
        return [name, f"{package}.{name}", f"ldmref.{name}"]
    if docname.startswith(("math/", "course/")):
        return [name, f"ldmref.{name}", f"ldmref.math.{name}", f"ldmref.samplers.{name}"]
    return [name, f"ldmref.{name}"]


def link_names(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Wrap the code that names something public in a link to its entry."""
    objects = app.env.get_domain("py").data["objects"]
    inside = (nodes.reference, nodes.title, addnodes.desc_signature)
    for node in list(doctree.findall(nodes.literal)):
        match = NAME.match(node.astext())
        if not match or _is_inside(node, inside):
            continue
        for full in candidates(match[0], docname):
            entry = objects.get(full)
            # A bare word such as `run` is a link only if it is written with its package.
            if entry and full.startswith("ldmref."):
                link = make_refnode(
                    app.builder, docname, entry.docname, entry.node_id, node.deepcopy(), full
                )
                node.replace_self(link)
                break


def _is_inside(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    parent = node.parent
    while parent is not None:
        if isinstance(parent, kinds):
            return True
        parent = parent.parent
    return False


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-resolved", link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
