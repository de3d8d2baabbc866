"""The static pages of docs/_browser in the built site: the explorer and the widgets of the course.

The files are copied to `_static/browser`. If `ldmref_browser_folder` holds an export of
`scripts/make_browser_model.py`, its model and runtime are copied too; otherwise the widgets that
need the model say that this copy of the site does not have one.
"""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path
from typing import Any

PAGES = Path(__file__).resolve().parent.parent / "_browser"
BUILT = ("model", "runtime")  # what scripts/make_browser_model.py adds to the pages
MANIFEST = "_static/browser/model/manifest.json"  # in a built site
ABSENT = "null\n"  # the manifest of a site without the model
SHARED = (  # files of the server's page that the static pages use
    "favicon.svg",
    "style.css",
    "explorer.css",
    "js/charts.js",
    "js/dom.js",
    "js/files.js",
    "js/explorer/preview.js",
    "js/explorer/scrubber.js",
)


def copy_pages(folder: Path) -> None:
    """Copy the pages, and the files of the installed server page that they use, into a folder."""
    shutil.copytree(PAGES, folder, dirs_exist_ok=True)
    with resources.as_file(resources.files("ldmref.apps.server") / "page") as source:
        for name in SHARED:
            target = folder / "shared" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target)


def copy_model(built: Path, folder: Path) -> bool:
    """Copy model and runtime of an export, and return whether there is one."""
    if not all((built / name).is_dir() for name in BUILT):
        return False
    for name in BUILT:
        shutil.copytree(built / name, folder / name, dirs_exist_ok=True)
    return True


def write_absence(folder: Path) -> None:
    """Write the manifest `null`: pages learn that there is no model without a failing request."""
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "manifest.json").write_text(ABSENT, "utf-8")


def add_to_site(app: Any, error: Exception | None) -> None:
    """Copy everything into a site of HTML pages that was built without an error."""
    from sphinx.util import logging  # scripts use this module without Sphinx

    if error is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_static" / "browser"
    copy_pages(folder)
    built = Path(app.confdir) / app.config.ldmref_browser_folder
    found = copy_model(built, folder)
    if not found:
        write_absence(folder)
    text = f"with the model of {built}" if found else "without the model"
    logging.getLogger(__name__).info("browser pages: %s", text)


def setup(app: Any) -> dict[str, Any]:
    """Set up the extension of Sphinx."""
    app.add_config_value("ldmref_browser_folder", "../build/browser", "env")
    app.add_css_file("browser/css/knobs.css")
    app.add_js_file("browser/js/knobs/main.js", type="module")
    app.connect("build-finished", add_to_site)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
