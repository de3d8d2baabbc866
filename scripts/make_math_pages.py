"""Write the tables of docs/math: for each function its source, oracle and tests.

    python scripts/make_math_pages.py                  # rewrite the tables, link the citations
    python scripts/make_math_pages.py --plots          # also make all plots (needs matplotlib)
    python scripts/make_math_pages.py --plots score    # make only the plot of one chapter

Sources come from the docstrings, oracles from the identities of `ldmref check`, tests from the
syntax trees of tests/, and titles of papers from docs/math/references.toml. The rest of a page is
written by hand. On every page of docs/, citations such as arXiv:2006.11239 become links.
`tests/math/test_pages.py` fails if a page is out of date or if a function has no source, oracle,
test or page. `tests/test_markdown.py` checks that GitHub renders the formulas and tables.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib.util
import re
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import ldmref.math
import ldmref.samplers
from ldmref.check.chapters import CHAPTERS
from ldmref.check.identity import Identity, public, source_of
from ldmref.differences import program_versions, read_differences

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "math"
PAPERS: dict[str, list[str]] = tomllib.loads((PAGES / "references.toml").read_text())
TESTS = [ROOT / "tests" / room for room in ("math", "samplers", "testing", "parity", "backends")]
NOT_FORMULAS = {  # names in ldmref.samplers: the loop, schedules, lookups, building blocks of steps
    "configured_step", "euler_step", "exponential_moment", "get_guidance", "get_sampler",
    "get_spacing", "guided_denoiser", "implicit", "make_schedule", "moment_weights",
    "repaint_visits", "sample", "sigma_grid",
}  # fmt: skip
BEGIN = "<!-- table: made by scripts/make_math_pages.py -->"
END = "<!-- end of table -->"
CITATION = re.compile(r"arXiv:((?:[a-z-]+/)?\d[\d.]*\d)")
# Citations are not changed in fenced blocks, code, formulas and existing links.
VERBATIM = re.compile(r"^ *(```|~~~).*?^ *\1[^\n]*$|`+[^`]*`+|\[[^\]]*\]\([^)]*\)", re.M | re.S)


def public_names() -> list[str]:
    """List every formula and every factory of a sampler's step."""
    factories = [n for n in ldmref.samplers.__all__ if n.islower() and n not in NOT_FORMULAS]
    return sorted([*ldmref.math.__all__, *factories])


def identities_by_page() -> dict[str, list[Identity]]:
    """Return the identities of each page."""
    identities = defaultdict(list)
    for chapter in CHAPTERS:
        identities[chapter.page] += chapter.identities
    return dict(identities)


def home_pages() -> dict[str, str]:
    """Return for each function the first page that checks it, otherwise the first that uses it."""
    homes: dict[str, str] = {}
    for names in (lambda i: (i.function,), lambda i: i.uses):
        for page, identities in identities_by_page().items():
            for identity in identities:
                for name in names(identity):
                    homes.setdefault(name, page)
    return homes


def tests_by_function() -> dict[str, list[str]]:
    """Return for each function the test files that use it, directly or through a helper."""
    files: dict[str, list[str]] = defaultdict(list)
    for path in sorted(p for folder in TESTS for p in folder.glob("test_*.py")):
        tree = ast.parse(path.read_text())
        names_in = {
            node.name: {
                n.id if isinstance(n, ast.Name) else n.attr
                for n in ast.walk(node)
                if isinstance(n, ast.Name | ast.Attribute)
            }
            for node in tree.body
            if isinstance(node, ast.FunctionDef)
        }
        used: set[str] = set()
        for test, names in names_in.items():
            if test.startswith("test_"):
                helpers = [n for n in names if n in names_in and not n.startswith("test_")]
                used |= names.union(*(names_in[h] for h in helpers))
        for name in used:
            files[name].append(path.relative_to(ROOT / "tests").as_posix())
    return files


def chain() -> dict[str, dict[str, Any]]:
    """Return for each function its source, oracles, tests, page, and whether the page names it."""
    tests = tests_by_function()
    homes = home_pages()
    identities = [i for group in identities_by_page().values() for i in group]
    links = {}
    for name in public_names():
        uses = [i for i in identities if name == i.function or name in i.uses]
        links[name] = {
            "source": source_of(name),
            "oracles": list(dict.fromkeys(i.oracle for i in uses)),
            "tests": tests.get(name, []),
            "page": homes.get(name, ""),
            "line": f"`{name}" in text_of(homes.get(name, "")),
        }
    return links


@functools.cache
def text_of(page: str) -> str:
    """Return the part of a page that is written by hand: all except its table."""
    path = PAGES / f"{page}.md"
    if not path.is_file():
        return ""
    return re.sub(re.escape(BEGIN) + r".*?" + re.escape(END), "", path.read_text(), flags=re.DOTALL)


def missing() -> list[str]:
    """Return one line for each source, oracle, test or mention that a function lacks."""
    return [
        f"{name}: no {link}" + (f" about it in {links['page']}.md" if link == "line" else "")
        for name, links in chain().items()
        for link in ("source", "oracles", "tests", "page", "line")
        if not links[link]
    ]


def row(cells: list[str]) -> str:
    """Return a row of a Markdown table, with bars inside cells escaped."""
    return "| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in cells) + " |"


def linked(text: str) -> str:
    """Link each arXiv:NUMBER of a text, except in code, formulas and existing links."""
    parts = []
    position = 0
    for verbatim in VERBATIM.finditer(text):
        parts.append(CITATION.sub(_link, text[position : verbatim.start()]))
        parts.append(verbatim[0])
        position = verbatim.end()
    return "".join([*parts, CITATION.sub(_link, text[position:])])


def _link(citation: re.Match[str]) -> str:
    return f"[{citation[0]}](https://arxiv.org/abs/{citation[1]})"


def table(page: str) -> str:
    """Return the folded table of one page, and the titles of the papers that it cites."""
    rows = [row(["function", "source", "oracle in `ldmref check`", "tests"]), "|---|---|---|---|"]
    cited: set[str] = set()
    for name, links in chain().items():
        if links["page"] == page:
            module = public(name).__module__.replace(".", "/")
            tests = "<br>".join(f"[{file}](../../tests/{file})" for file in links["tests"])
            function = f"[`{name}`](../../{module}.py)"
            rows.append(
                row([function, linked(links["source"]), "; ".join(links["oracles"]), tests])
            )
            cited.update(CITATION.findall(links["source"]))
    folded = [
        "<details>",
        f"<summary>{len(rows) - 2} functions, each with its source, oracle and tests</summary>",
        "",
        *rows,
        "",
        "</details>",
    ]
    return "\n".join([*folded, "", *papers(cited)])


def papers(cited: set[str]) -> list[str]:
    """Return a list of papers by year: authors, title, link."""
    by_year = sorted(cited, key=lambda n: (PAPERS[n][0][-4:], PAPERS[n][0], n))
    return ["Papers:", ""] + [
        f"- {PAPERS[number][0]}, *{PAPERS[number][1]}*, {linked(f'arXiv:{number}')}"
        for number in by_year
    ]


def page_text(page: str) -> str:
    """Return the page with its table regenerated, citations linked, and the rest unchanged."""
    text = linked((PAGES / f"{page}.md").read_text())
    block = f"{BEGIN}\n\n{table(page)}\n\n{END}"
    pattern = re.escape(BEGIN) + r".*?" + re.escape(END)
    if not re.search(pattern, text, re.DOTALL):
        raise SystemExit(f"{page}.md has no table: {BEGIN} ... {END}")
    return re.sub(pattern, lambda _: block, text, flags=re.DOTALL)


def differences_text() -> str:
    """Return docs/math/differences.md with the table below each heading regenerated."""
    text = (PAGES / "differences.md").read_text()
    for section in dict.fromkeys(difference.section for difference in read_differences()):
        rows = [row(["difference", "number", "test"]), "|---|---|---|"]
        for difference in read_differences():
            if difference.section == section:
                newer = f" ({difference.newer})" if difference.newer else ""
                text_of_row = difference.difference + newer
                rows.append(row([text_of_row, difference.number, difference.test]))
        block = "\n".join([f"## {section}", "", BEGIN, "", *rows, "", END])
        pattern = f"## {section}\n\n{re.escape(BEGIN)}.*?{re.escape(END)}"
        text, count = re.subn(pattern, lambda _: block, text, flags=re.DOTALL)  # noqa: B023
        if count != 1:
            raise SystemExit(f"differences.md has no table below the heading {section!r}")
    versions = ", ".join(f"{name} {x}" for name, x in program_versions().items() if x)
    return re.sub(r"(?<=^Versions and commits: ).*$", f"{versions}.", text, flags=re.M)


def draw_plot(page: str) -> None:
    """Write docs/math/plots/PAGE.png with scripts/math_plots/PAGE.py."""
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
    (PAGES / "differences.md").write_text(differences_text())
    for path in sorted((ROOT / "docs").rglob("*.md")):
        path.write_text(linked(path.read_text()))
    print("\n".join(missing()) or "the chain is whole")


if __name__ == "__main__":
    main()
