"""Build the site: a copy of the pages with their sidebar, the references, then Sphinx.

    python scripts/build_site.py                           # into build/site
    python scripts/build_site.py --only start modes        # a few pages, to look at them quickly
    python -m http.server -d build/site                    # read it

Sphinx reads the pages from `build/site-pages`: README.md is called index.md there, pages from
outside of docs/ have a place, and the API, the commands and the settings have pages. Every warning
is an error. Then every link and every anchor is followed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
sys.path.insert(0, str(ROOT / "scripts"))

import api  # noqa: E402
import browser  # noqa: E402
import commands  # noqa: E402
import configuration  # noqa: E402
import links  # noqa: E402
import make_notebooks  # noqa: E402
import navigation  # noqa: E402
import pages  # noqa: E402
import sources  # noqa: E402

REFERENCES = {
    "API": ("api/index.md", "every public function and class, from the docstrings"),
    "All commands and flags": ("commands.md", "the help of every command"),
    "Configuration": ("configuration.md", "`ldmref.toml`, variables and recipes, key by key"),
}


def write_pages(folder: Path, only: list[str] | None = None, allow_missing: bool = False) -> None:
    """Write all pages, or those whose names begin with one of `only`, for Sphinx.

    Raises:
        pages.MissingTarget: A page links to a file that does not exist.
    """
    site = pages.Site(allow_missing)
    made = commands.make_page() | configuration.make_page() | api.make_pages()
    written = {place: page for page, place in site.places.items() if page != "README.md"}
    kept = {*made, *written}
    if only is not None:
        kept = {p for p in kept if p == "index.md" or p.startswith(tuple(only))}
    texts = {p: site.text_of(written[p]) if p in written else made[p] for p in sorted(kept)}
    texts["index.md"] = with_references(texts["index.md"])
    if only is not None:
        texts = {p: links.without_targets(text, p, kept) for p, text in texts.items()}
    notebooks = make_notebooks.make_notebooks(site.places, texts)
    for place, text in navigation.with_sidebar(texts).items():
        write_if_changed(folder / place, text.encode())
    for place, file in site.images.items():
        write_if_changed(folder / place, (ROOT / file).read_bytes())
    for place, notebook in notebooks.items():
        write_if_changed(folder / place, notebook.encode())
    linked = site.used.union(*map(sources.linked_files, texts.values()))
    write_if_changed(folder / sources.LIST, "\n".join(sorted(linked)).encode())
    current = {sources.LIST, *texts, *site.images, *notebooks}
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in current:
            path.unlink()


def with_references(index: str) -> str:
    """Return the first page with the rows of the pages that exist only on the site."""
    rows = "".join(f"| [{t}]({place}) | {text} |\n" for t, (place, text) in REFERENCES.items())
    head, mark, rest = index.partition("## Reference\n")
    header = "|---|---|\n"
    assert mark and header in rest
    return head + mark + rest.replace(header, header + rows, 1)


def write_if_changed(path: Path, data: bytes) -> None:
    """Write a file unless it has these contents: Sphinx reads only pages that changed."""
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def lead_on(old: str, new: str) -> str:
    """Return the page at an old address, which leads to the new one."""
    target = os.path.relpath(new, os.path.dirname(old) or ".")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>This page has moved</title>'
        f'<meta http-equiv="refresh" content="0; url={target}">'
        f'<link rel="canonical" href="{target}"><p><a href="{target}">This page has moved.</a></p>'
        "</html>\n"
    )


def build(source: Path, out: Path, jobs: str = "auto") -> None:
    """Run Sphinx; every warning is an error.

    Raises:
        SystemExit: Sphinx failed; it has printed the reason.
    """
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-c", str(ROOT / "docs"), "-q"]
    command += ["-W", "--keep-going", "-j", jobs, "-d", str(out) + "-cache", str(source), str(out)]
    ran = subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "0"})
    if ran.returncode:
        raise SystemExit(ran.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, nargs="?", default=ROOT / "build" / "site")
    parser.add_argument("--only", nargs="+", metavar="PREFIX", help="pages whose names begin so")
    parser.add_argument("--jobs", default="auto", help="processes of Sphinx (default: all cores)")
    parser.add_argument(
        "--allow-missing", action="store_true", help="leave out links to files that do not exist"
    )
    args = parser.parse_args()
    start = time.monotonic()
    source = Path(f"{args.out}-pages")
    write_pages(source, args.only, args.allow_missing)
    build(source, args.out, args.jobs)
    for old, new in pages.MOVED.items():
        if (args.out / new.partition("#")[0]).is_file():
            write_if_changed(args.out / old, lead_on(old, new).encode())
    for schema, text in configuration.schemas().items():
        write_if_changed(args.out / schema, text.encode())
    shutil.rmtree(args.out / ".doctrees", ignore_errors=True)
    errors = links.check(args.out)
    if errors:
        raise SystemExit("\n".join(errors))
    count = sum(1 for _ in args.out.rglob("*.html"))
    print(f"{args.out}: {count} pages in {time.monotonic() - start:.0f} s")
    if (args.out / browser.MANIFEST).read_text("utf-8") == browser.ABSENT:
        print("without the model: `make browser` adds what generates images in the pages")


if __name__ == "__main__":
    main()
