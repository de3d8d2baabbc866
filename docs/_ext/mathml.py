"""Formulas become MathML when the site is built: it needs no script, and screen readers read it."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import SphinxError

MISSING = re.compile(r"\\(arg)\b\s*")  # functions that the converter does not have
UNKNOWN = re.compile(r">(\\[a-zA-Z]+|&(?=<))")  # it prints what it does not know
ALIGNED = re.compile(r"\\(begin|end)\{aligned\}")  # the converter knows only the outer form
# Operators that the converter takes for identifiers, which have no space around them.
OPERATOR = re.compile(r"<mi>(&#x(?:0007E|000B1|02016|0230A|0230B|027C2|027F9|027FA);|[:;])</mi>")
# Bars without a side grow to the height of the row, and are spaced like a relation.
BAR = re.compile(r"<mo>(&#x(?:02016|0007C);)</mo>")
# A root has the height of a line at least: over a low letter its bar would look like an accent of
# the letter, and Chromium leaves a gap behind a root of the smallest size.
ROOT = re.compile(r"<msqrt>(<mrow>)?")
STRUT = '<mspace width="0" height="0.9em" depth="0.25em" />'
# Names of functions are operators with a thin space on the sides of letters, not of brackets.
FUNCTION = re.compile(
    r"(?P<before></m(?:i|n|sub|sup|subsup|frac|sqrt|over)>|(?:\)|&#x00029;|&#x02207;)</mo>)?<mi>"
    r"(?P<name>log|exp|sin|cos|tan|tanh|det|max|min)</mi>"
    r"(?P<after><mo[^>]*>(?:\(|&#x00028;|\[|&#x0005B;))?"
)
THIN = "0.167em"
SIDE = re.compile(r"(?<!\\left)(?<!\\right)\\([lr])[vV]ert(?![a-zA-Z])")
FORMS = {"l": "prefix", "r": "postfix"}


def to_mathml(tex: str, display: str) -> str:
    """Return the MathML of a formula; `display` is "inline" or "block".

    Raises:
        SphinxError: The formula cannot be converted.
    """
    if display == "block" and r"\begin" not in tex and ("&" in tex or r"\\" in tex):
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"  # as Sphinx writes such formulas for LaTeX
    try:
        known = ALIGNED.sub(r"\\\1{align*}", MISSING.sub(r"\\mathrm{\1}\\,", tex))
        made = convert(known, display=display)
    except Exception as error:  # the converter raises many classes
        raise SphinxError(f"not a formula: {tex!r}: {error!r}") from error
    if unknown := UNKNOWN.search(made):
        raise SphinxError(f"the formula {tex!r} has an unknown part {unknown[1]}")
    return with_operators(made, tex)


def with_operators(made: str, tex: str) -> str:
    """Return the MathML of a formula with its operators, roots and bars as TeX has them."""
    sides = iter(SIDE.findall(tex))

    def bar(match: re.Match[str]) -> str:
        return f'<mo stretchy="false" form="{FORMS[next(sides)]}">{match[1]}</mo>'

    def function(match: re.Match[str]) -> str:
        left = THIN if match["before"] else "0"
        right = "0" if match["after"] else THIN
        name = f'<mo form="prefix" lspace="{left}" rspace="{right}">{match["name"]}</mo>'
        return (match["before"] or "") + name + (match["after"] or "")

    made = OPERATOR.sub(r"<mo>\1</mo>", BAR.sub(bar, made))
    made = ROOT.sub(lambda match: match[0] + STRUT, FUNCTION.sub(function, made))
    return made.replace("<mo>&#x0007E;", "<mo>&#x0223C;")


def visit_inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(to_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    formula = to_mathml(node.astext(), "block")
    translator.body.append(f'<div class="formula">{formula}</div>\n')
    raise nodes.SkipNode


def strip_backticks(app: Sphinx, document: nodes.document) -> None:
    """Read GitHub's inline form: the parser has taken the backticks of $`x`$ for a formula's."""
    for node in document.findall(nodes.math):
        tex = node.astext().strip("`")
        node.replace_self(nodes.math(tex, tex))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.connect("doctree-read", strip_backticks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
