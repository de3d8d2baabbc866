"""Sphinx's configuration of the site. `python scripts/build_site.py` builds it."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import ldmref  # noqa: E402

project = "ldmref"
author = "The ldmref authors"
copyright = author
release = version = ldmref.__version__
extensions = ["myst_parser", "mathml", "names", "sources", "formats", "browser", "accessible"]

# Pages are Markdown as GitHub reads it.
root_doc = "index"
source_suffix = {".md": "markdown"}
# Several packages export the same class (`ldmref.families` what a family needs of others), so a
# type in a signature leads to one of its entries. Sphinx warns of that in this category alone.
suppress_warnings = ["ref.python"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 6
myst_url_schemes = ["http", "https", "mailto", "source"]
# Flags such as --seed and quoted prompts are printed as they are typed.
smartquotes = False
# A block without a language holds commands.
highlight_language = "sh"

html_theme = "furo"
html_title = f"ldmref {release}"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_use_index = True
