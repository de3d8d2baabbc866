"""The parts of the site's build: links, sidebar, docstrings, formulas, references, notebooks."""

from __future__ import annotations

import base64
import inspect
import re
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("sphinx")
pytest.importorskip("nbformat")

import api
import commands
import configuration
import docstrings
import formats
import links
import make_notebooks
import mathml
import navigation
import pages
from sphinx.errors import SphinxError

from ldmref.apps.cli.main import cli
from ldmref.declare import get_fields
from ldmref.support.config import TABLES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def site():
    return pages.Site()


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("modes.md#plans", "modes.md#plans"),
        ("math/README.md", "math/index.md"),
        ("math", "math/index.md"),
        ("../CONTRIBUTING.md", "contributing.md"),
        ("../README.md", "index.md"),
        ("../ldmref/assets/emoji/README.md#limits", "embedded-model.md#limits"),
        ("../ldmref/math/snr.py#L3", "source:ldmref/math/snr.py#L3"),
        ("../ldmref/math", "source:ldmref/math"),
        ("images/grid.png", "images/grid.png"),
        ("https://example.org", "https://example.org"),
        ("#here", "#here"),
    ],
)
def test_a_link_leads_to_the_same_file_on_the_site(site, target, place):
    assert site.resolve(target, "docs/design.md") == place


def test_links_are_relative_to_the_place_on_the_site(site):
    assert site.resolve("../modes.md", "docs/math/README.md") == "../modes.md"
    assert site.resolve("docs/modes.md", "CONTRIBUTING.md") == "modes.md"
    assert site.resolve("../../../docs/modes.md", "examples/plugins/ldmref-jax/README.md") == (
        pytest.approx("../modes.md")
    )


def test_every_link_of_every_page_has_a_target(site):
    assert all(site.text_of(page) for page in site.places)


def test_a_link_to_nothing_is_refused_or_left_out(site):
    with pytest.raises(pages.MissingTarget, match=r"docs/modes.md links to nowhere\.md"):
        site.resolve("nowhere.md", "docs/modes.md")
    assert pages.Site(allow_missing=True).resolve("nowhere.md", "docs/modes.md") == ""


def test_a_page_loses_its_comments_and_keeps_its_code(site, monkeypatch, tmp_path):
    text = (
        "# T\n\n<!-- checked by: a -->\n\n```math\nx\n```\n\n"
        "[a](../ldmref/support/config.py) `[b](c.md)`\n"
        "[![i](images/grid.png)](modes.md) [`d`](design.md)\n\n```\n<!-- kept --> [e](f.md)\n```\n"
        '\n<pre><a href="../ldmref/support/config.py">c</a></pre>\n'
    )
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: text)
    assert site.text_of("docs/modes.md") == (
        "# T\n\n\n```math\nx\n```\n\n[a](source:ldmref/support/config.py) `[b](c.md)`\n"
        "[![i](images/grid.png)](modes.md) [`d`](design.md)\n\n```\n<!-- kept --> [e](f.md)\n```\n"
        '\n<pre><a href="source/ldmref/support/config.py.html">c</a></pre>\n'
    )
    assert site.used == {"ldmref/support/config.py"} and site.images == {
        "images/grid.png": "docs/images/grid.png"
    }


INDEX = """# Docs

## Start

| page | content |
|---|---|
| [First](first.md) | one |

## Course

| page | content |
|---|---|
| [The course](course/index.md) | all |

## Empty
"""


def test_the_sidebar_has_the_sections_and_the_chapters():
    texts = {
        "index.md": INDEX,
        "first.md": "# F\n",
        "course/index.md": "[a](a.md)\n| [b](b.md) |\n",
        "course/a.md": "# A\n",
        "course/b.md": "# B\n",
        "lonely.md": "# L\n",
        "math/index.md": "# M\n",
        "math/x.md": "# X\n",
    }
    made = navigation.with_sidebar(texts)
    assert ":caption: Start\n\nFirst <first>\n" in made["index.md"]
    assert "The course <course/index>\ncourse/b\ncourse/a\n" in made["index.md"]
    assert "Empty\n```" not in made["index.md"] and made["course/a.md"] == "# A\n"
    assert made["lonely.md"].startswith("---\norphan: true\n---\n# L")
    assert "\nx\n" in made["math/index.md"]


def test_every_page_of_the_index_has_a_section():
    index = pages.Site(allow_missing=True).text_of("docs/README.md")
    sections = navigation.read_sections(index)
    assert [*sections] == ["Start", "Course", "How to", "Reference"]
    assert all(sections.values())
    rows = [line for line in index.splitlines() if line.startswith("| [")]
    assert sum(map(len, sections.values())) == len(rows)
    text = formats.llms_txt(index)
    assert all(f"]({entry.place})" in text for s in sections.values() for entry in s)


DOCSTRING = r"""Return x * 2, as in arXiv:2006.11239.

.. math:: y =
          2 x

A cost of $5 in __init__.

Args:
    x: A number, any
        of them.
    *rest: More, see `y`.

Returns:
    The product.

Raises:
    ValueError, TypeError: x is not a number.

Source: nobody.

>>> f(1)
2
"""
MARKDOWN = r"""Return x \* 2, as in [arXiv:2006.11239](https://arxiv.org/abs/2006.11239).

```math
y =
2 x
```

A cost of \$5 in \__init\__.

**Arguments**

- `x`: A number, any
  of them.
- `*rest`: More, see `y`.

**Returns:** The product.

**Raises**

- `ValueError, TypeError`: x is not a number.

**Source:** nobody.

```pycon
>>> f(1)
2
```
"""


def test_a_docstring_as_markdown():
    assert docstrings.to_markdown(DOCSTRING) == MARKDOWN
    assert docstrings.summary("The file e.g. a.\n\nMore.") == "The file e.g. a"
    assert docstrings.to_markdown(None) == "\n"


def test_code_and_columns_in_a_docstring_are_blocks():
    text = "Do.\n\nimport a\nb = a.c(1)\n\nrun.py    the run\nb.py      more\n\nA text."
    assert docstrings.to_markdown(text) == (
        "Do.\n\n```python\nimport a\nb = a.c(1)\n```\n\n"
        "```text\nrun.py    the run\nb.py      more\n```\n\nA text.\n"
    )


@pytest.fixture(scope="module")
def reference():
    return api.make_pages()


def test_every_public_name_has_one_entry(reference):
    entries = re.findall(r"^:::+\{py:\w+\} (ldmref[\w.]*)", "\n".join(reference.values()), re.M)
    assert len(entries) == len({*entries})
    for module in api.public_modules():
        if module.__name__ == "ldmref.math.checked":
            continue
        for name in api.exported(module):
            if inspect.ismodule(getattr(module, name)):  # its functions are described there
                continue
            full = f"{module.__name__}.{name}"
            assert full in entries or f"api/{full}.md" in reference, full


def test_an_entry_has_signature_formula_arguments_and_code(reference):
    text = reference["api/ldmref.math/forward.md"]
    entry = text.partition(":::{py:function} ldmref.math.q_sample")[2].partition("\n:::\n")[0]
    assert entry.startswith("(x0, alpha_bar, eps)\n")
    assert r"\sqrt{\bar\alpha_t}" in entry and "- `alpha_bar`: fraction" in entry
    (line,) = re.findall(r"\(source:ldmref/math/forward\.py#L(\d+)\)", entry)
    source = (ROOT / "ldmref" / "math" / "forward.py").read_text("utf-8").splitlines()
    assert source[int(line) - 1].startswith("def q_sample(")


def test_papers_of_the_reference_are_those_of_the_pages(reference):
    papers = tomllib.loads((ROOT / "docs" / "math" / "references.toml").read_text("utf-8"))
    cited = re.findall(r"\[arXiv:([^\]]+)\]\(https://arxiv.org/abs/([^)]+)\)", str(reference))
    assert len(cited) > 100 and all(text == link for text, link in cited)
    assert {link for _, link in cited} <= {*papers}


def test_methods_and_properties_of_a_class_are_listed(reference):
    text = reference["api/ldmref.modes.md"]
    assert ":::{py:method} ldmref.modes.Result.save(path: str | ~pathlib.Path" in text
    text = reference["api/ldmref.backends.md"]
    assert "{py:method} ldmref.backends.Backend.conv2d(" in text
    assert "{py:property} ldmref.backends.Backend.state_dtype" in text


def test_every_formula_becomes_mathml(reference):
    texts = [path.read_text("utf-8") for path in (ROOT / "docs").rglob("*.md")]
    text = "\n".join([*texts, *reference.values()])
    blocks = re.findall(r"^ *```math\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"\$`([^`]+)`\$", text)
    assert len(blocks) > 200 and len(inline) > 500
    for tex in {*blocks, *inline}:
        made = mathml.to_mathml(tex, "block")
        assert made.startswith("<math ") and "<merror" not in made


def test_aligned_lines_are_rows_of_a_table():
    made = mathml.to_mathml(r"\begin{aligned} x &= 1 \\ &\le 2 && \text{so} \end{aligned}", "block")
    assert made.count("<mtr>") == 2 and 'columnalign="right"' in made


def test_operators_are_operators_and_bars_have_a_side():
    made = mathml.to_mathml(r"x \sim p,\; \lVert x \rVert^2 \le \frac12 \lvert y \rvert", "block")
    assert "<mo>&#x0223C;</mo>" in made and "<mi>&#x0007E;</mi>" not in made
    forms = re.findall(r'<mo stretchy="false" form="(\w+)">&#x(02016|0007C);</mo>', made)
    assert forms == [(side, bar) for bar in ("02016", "0007C") for side in ("prefix", "postfix")]
    assert 'stretchy="true"' in mathml.to_mathml(r"\left\lVert x \right\rVert", "block")


@pytest.mark.parametrize(
    ("tex", "left", "right"),
    [
        (r"\log p", "0", "0.167em"),
        (r"p \log p", "0.167em", "0.167em"),
        (r"\log (1 - p)", "0", "0"),
        (r"-\log_2 P", "0", "0.167em"),
        (r"\nabla \log q(x)", "0.167em", "0.167em"),
        (r"(1 - p) \log(1 - q)", "0.167em", "0"),
    ],
)
def test_functions_have_space_next_to_letters(tex, left, right):
    made = mathml.to_mathml(tex, "inline")
    assert f'<mo form="prefix" lspace="{left}" rspace="{right}">log</mo>' in made
    assert "<mi>log</mi>" not in made


@pytest.mark.parametrize("tex", [r"\sqrt{\alpha_t}", r"\sqrt 2", r"\sqrt{1 - \sqrt{x}}"])
def test_the_bar_of_a_root_is_above_a_line(tex):
    made = mathml.to_mathml(tex, "inline")
    roots = re.findall(r"<msqrt>(?:<mrow>)?(<[^>]+>)", made)
    assert len(roots) == tex.count("sqrt")
    assert all('width="0" height="0.9em"' in first for first in roots)


@pytest.mark.parametrize("tex", [r"\nonsense x", r"\begin{aligned} x", "a & b"])
def test_what_is_no_formula_ends_the_build(tex):
    with pytest.raises(SphinxError, match="formula"):
        mathml.to_mathml(tex, "inline")


def test_every_command_and_flag_is_listed():
    text = commands.make_page()["commands.md"]
    for name, command in cli.commands.items():
        assert f"### ldmref {name}\n" in text
        for param in command.params:
            flag = max(param.opts, key=len)
            if flag.startswith("--") and not getattr(param, "hidden", False):
                assert flag in text, f"{name} {flag}"


def test_every_setting_is_listed_with_its_meaning():
    text = configuration.make_page()["configuration.md"]
    for table, cls in TABLES.items():
        for key in get_fields(cls):
            (row,) = [
                line
                for line in text.partition(f"## \\[{table}\\]")[2]
                .partition("\n## ")[0]
                .splitlines()
                if line.startswith(f"| `{key}` |")
            ]
            assert len(row.strip("| ").rpartition(" | ")[2]) > 10, row
    assert {f"schemas/{name}.json" for name in ("txt2img", "inpaint")} < {*configuration.schemas()}


PAGE = """# P

$`x`$ <!-- hidden -->

```math
y
```

```python
print(1)
```

```text
1
```

![an image](images/grid.png) and ![none](images/none.png)

![a "drawing"](course/images/07-unet.svg)
"""


def test_a_notebook_has_outputs_images_and_formulas():
    first, code, last = make_notebooks.make_notebook(PAGE, ROOT / "docs").cells
    assert first.source == "# P\n\n$x$ \n$$\ny\n$$"
    assert code.source == "print(1)" and code.outputs[0].text == "1\n"
    assert "![an image](attachment:grid.png) and ![none](images/none.png)" in last.source
    data = last.attachments["grid.png"]["image/png"]
    assert base64.b64decode(data) == (ROOT / "docs" / "images" / "grid.png").read_bytes()
    drawing = re.search(
        r'<img alt="a &quot;drawing&quot;" src="data:image/svg\+xml;base64,([^"]+)">', last.source
    )
    file = ROOT / "docs" / "course" / "images" / "07-unet.svg"
    assert drawing and base64.b64decode(drawing[1]) == file.read_bytes()


def test_every_page_with_python_has_a_valid_notebook():
    site = pages.Site(allow_missing=True)
    texts = {place: site.text_of(page) for page, place in site.places.items()}
    made = make_notebooks.make_notebooks(site.places, texts)  # it validates them
    assert {"start.ipynb", "training.ipynb", "explorer.ipynb"} < {*made}
    assert made == make_notebooks.make_notebooks(site.places, texts)


def test_dead_links_missing_anchors_and_other_hosts_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="x">A</h1><a href="b.html#y">b</a><a href="c.html">c</a>'
    )
    (tmp_path / "b.html").write_text(
        '<a href="a.html#x">a</a><script src="https://cdn.example.org/x.js"></script>'
        '<a href="https://example.org">other</a><img src="d.png">'
    )
    assert links.check(tmp_path) == [
        "a.html: no anchor for b.html#y",
        "a.html: no file for c.html",
        "b.html: loads https://cdn.example.org/x.js",
        "b.html: no file for d.png",
    ]


def test_old_addresses_lead_to_pages_that_exist(tmp_path):
    from build_site import lead_on
    from links import check

    for old, new in pages.MOVED.items():
        target, _, anchor = new.partition("#")
        assert target.replace(".html", ".md") in pages.find_pages().values()
        assert old.replace(".html", ".md") not in pages.find_pages().values()
        before = (tmp_path / target).read_text() if (tmp_path / target).exists() else ""
        page = f'{before}<p id="{anchor}">here</p>'
        for place, text in {old: lead_on(old, new), target: page}.items():
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place).write_text(text)
    assert check(tmp_path) == []
    assert 'url=../b/c.html"' in lead_on("a/d.html", "b/c.html")


def test_the_api_has_the_modules_that_the_policy_names():
    policy = (ROOT / "docs/policy.md").read_text("utf-8")
    assert all(f"`{module}`" in policy for module in api.MODULES)
    names = [module.__name__ for module in api.public_modules()]
    assert {*api.MODULES} <= {*names}
    assert len({*names}) == len(names)  # once, also those that another package exports
