"""What the theme leaves out for readers who do not see the page or do not use a mouse.

The captions of the sidebar get a level, as a heading needs one. Blocks that are wider than the page
are made scrollable by keys in `_static/site.js`, because only the browser knows which they are.
"""

from __future__ import annotations

import re
from typing import Any

CAPTION = re.compile(r'role="heading"(?! aria-level)')
LEVEL = 2  # the sections of the site, below the title of the page


def with_levels(html: str) -> str:
    """Return HTML whose headings by role have a level; Sphinx writes those of a toctree without."""
    return CAPTION.sub(rf'\g<0> aria-level="{LEVEL}"', html)


def change_page(
    app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Change the parts of a page that hold captions: the sidebar and the body."""
    for part in ("furo_navigation_tree", "body"):
        if isinstance(context.get(part), str):
            context[part] = with_levels(context[part])


def setup(app: Any) -> dict[str, Any]:
    """Set up the extension of Sphinx, to be called after the theme."""
    app.connect("html-page-context", change_page, priority=900)
    app.add_js_file("site.js", loading_method="defer")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
