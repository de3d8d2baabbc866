"""The chain formula -> function -> source -> oracle -> test, as the tables of docs/math.

    python scripts/make_math_pages.py                  # rewrite the tables
    python scripts/make_math_pages.py --plots          # and draw all plots again (needs matplotlib)
    python scripts/make_math_pages.py --plots score    # only those of one chapter

Sources are read from the docstrings, oracles from the identities of `ldmref check`, tests from the
syntax trees of tests/. `tests/math/test_pages.py` fails when a page is not what this would write,
or when a link of the chain is missing.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
from collections import defaultdict
from pathlib import Path

import ldmref.math
import ldmref.samplers
from ldmref.check.chapters import CHAPTERS
from ldmref.check.identity import Identity, public, source_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "math"
TESTS = [ROOT / "tests" / part for part in ("math", "samplers", "testing", "parity", "backends")]
BEGIN = "<!-- table: made by scripts/make_math_pages.py -->"
END = "<!-- end of table -->"


def public_names() -> list[str]:
    """Every formula, and every maker of a sampler's step."""
    makers = [n for n in ldmref.samplers.__all__ if n.islower() and n not in NOT_FORMULAS]
    return sorted([*ldmref.math.__all__, *makers])


NOT_FORMULAS = {"get_sampler", "sample"}  # of ldmref.samplers: looking up, and looping


def identities_by_page() -> dict[str, list[Identity]]:
    """Page -> its identities."""
    found = defaultdict(list)
    for chapter in CHAPTERS:
        found[chapter.page] += chapter.identities
    return dict(found)


def home_pages() -> dict[str, str]:
    """Function -> page: where it is checked first, else where it is used first."""
    homes: dict[str, str] = {}
    for names in (lambda i: (i.function,), lambda i: i.uses):
        for page, identities in identities_by_page().items():
            for identity in identities:
                for name in names(identity):
                    homes.setdefault(name, page)
    return homes


def tests_by_function() -> dict[str, dict[str, int]]:
    """Function -> test file -> how many tests use it, directly or through the file's helpers."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for path in sorted(p for folder in TESTS for p in folder.glob("test_*.py")):
        tree = ast.parse(path.read_text())
        used = {
            node.name: {
                n.id if isinstance(n, ast.Name) else n.attr
                for n in ast.walk(node)
                if isinstance(n, ast.Name | ast.Attribute)
            }
            for node in tree.body
            if isinstance(node, ast.FunctionDef)
        }
        for name, words in used.items():
            if name.startswith("test_"):
                helpers = [used[w] for w in words if w in used and not w.startswith("test_")]
                for word in words.union(*helpers):
                    file = path.relative_to(ROOT / "tests").as_posix()
                    found[word][file] = found[word].get(file, 0) + 1
    return found


def chain() -> dict[str, dict]:
    """Function -> source, oracles, tests, page."""
    tests, homes = tests_by_function(), home_pages()
    everything = [i for group in identities_by_page().values() for i in group]
    links = {}
    for name in public_names():
        mine = [i for i in everything if name == i.function or name in i.uses]
        links[name] = {
            "source": source_of(name),
            "oracles": list(dict.fromkeys(i.oracle for i in mine)),
            "tests": tests.get(name, {}),
            "page": homes.get(name, ""),
        }
    return links


def missing() -> list[str]:
    """What breaks the chain: one line for each missing link."""
    return [
        f"{name}: no {link}"
        for name, links in chain().items()
        for link in ("source", "oracles", "tests", "page")
        if not links[link]
    ]


def table(page: str) -> str:
    """The table of one page."""
    rows = ["| function | source | oracle in `ldmref check` | tests |", "|---|---|---|---|"]
    for name, links in chain().items():
        if links["page"] == page:
            module = public(name).__module__.replace(".", "/")
            tests = "<br>".join(
                f"[{file}](../../tests/{file}): {n}" for file, n in links["tests"].items()
            )
            oracles = "; ".join(links["oracles"])
            cell = links["source"].replace("|", "\\|")
            rows.append(f"| [`{name}`](../../{module}.py) | {cell} | {oracles} | {tests} |")
    return "\n".join(rows)


def page_text(page: str) -> str:
    """The page with its table made anew; the rest is written by hand."""
    text = (PAGES / f"{page}.md").read_text()
    block = f"{BEGIN}\n\n{table(page)}\n\n{END}"
    pattern = re.escape(BEGIN) + r".*?" + re.escape(END)
    if not re.search(pattern, text, re.DOTALL):
        raise SystemExit(f"{page}.md has no place for its table: {BEGIN} ... {END}")
    return re.sub(pattern, lambda _: block, text, flags=re.DOTALL)


def draw_plot(page: str) -> None:
    """docs/math/plots/PAGE.png, by scripts/math_plots/PAGE.py."""
    from matplotlib.figure import Figure

    path = ROOT / "scripts" / "math_plots" / f"{page}.py"
    spec = importlib.util.spec_from_file_location(f"math_plots_{page}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    figure = Figure(figsize=(10, 3.6), dpi=100, layout="constrained")
    module.plot(figure)
    (PAGES / "plots").mkdir(exist_ok=True)
    figure.savefig(PAGES / "plots" / f"{page}.png", metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plots", nargs="*", metavar="CHAPTER", help="draw plots; default: all")
    args = parser.parse_args()
    pages = list(identities_by_page())
    if args.plots is not None:
        for page in args.plots or pages:
            draw_plot(page)
        if args.plots:
            return
    for page in pages:
        (PAGES / f"{page}.md").write_text(page_text(page))
    print("\n".join(missing()) or "the chain is whole")


if __name__ == "__main__":
    main()
