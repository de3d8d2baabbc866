"""The modules of the page that do not need a page: numbers, states, schemas, code, masks."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
FEW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def call(page):
    """`call(module, function, *arguments)` runs an exported function; all values are JSON."""
    script = """async ([module, name, texts]) => {
      const exported = await import(`/page/js/${module}.js`);
      const {parseJson, toJson} = await import("/page/js/numbers.js");
      return toJson(await exported[name](...texts.map(parseJson))) ?? "null";
    }"""

    def run(module, name, *values):
        return json.loads(page.evaluate(script, [module, name, [json.dumps(v) for v in values]]))

    return run


@FEW
@given(st.integers(-(2**70), 2**70) | TEXTS | st.floats(-(2.0**53), 2.0**53))
def test_json_is_exact(call, value):
    assert call("numbers", "parseJson", json.dumps({"x": [value]})) == {"x": [value]}


@FEW
@given(st.dictionaries(TEXTS.filter(lambda name: name and "." not in name), TEXTS.filter(bool)))
@example(values={"__proto__": "0"})
def test_the_hash_holds_any_text(call, values):
    state = {"p": values, "view": "explore"} if values else {"view": "explore"}
    assert call("state", "parseState", call("state", "formatState", state)) == state


@FEW
@given(TEXTS.filter(lambda text: "\x00" not in text))
def test_literals_of_python(call, text):
    value = {"a": [text, True, None, 2**63, 1.5]}
    assert eval(call("copy", "python", value)) == value


@FEW
@given(TEXTS.filter(lambda text: text and text.isprintable()))
def test_words_of_a_shell(call, text):
    assert shlex.split(call("copy", "quote", text)) == [text]


def test_names_of_files(call):
    assert call("files", "fileName", "Two Cats, & a DOG!", 3) == "two-cats-a-dog-3.png"
    assert call("files", "fileName", "../../etc/passwd", 1) == "etc-passwd-1.png"
    assert call("files", "fileName", "🐶", 1) == "image-1.png"


def test_events_are_read_in_any_pieces(page):
    """Comments, CRLF, several lines of data, and letters of several bytes cut in the middle."""
    text = (
        ': alive\n\nid: 1\r\nevent: progress\r\ndata: {"step":\r\ndata: 1}\r\n\r\ndata: "ä🐶"\n\n'
    )
    events = page.evaluate(
        """async ([text, size]) => {
          const {readEvents} = await import("/page/js/sse.js");
          const bytes = new TextEncoder().encode(text);
          const stream = new ReadableStream({start(controller) {
            for (let i = 0; i < bytes.length; i += size) {
              controller.enqueue(bytes.slice(i, i + size));
            }
            controller.close();
          }});
          const events = [];
          for await (const event of readEvents(stream)) events.push(event);
          return events;
        }""",
        [text, 1],
    )
    assert events == [
        {"event": "progress", "data": {"step": 1}, "id": "1"},
        {"event": "message", "data": "ä🐶", "id": None},
    ]


def test_files_are_short_and_the_page_has_no_inline_code():
    """Modules below 300 lines, no innerHTML, and no address of another host."""
    from importlib import resources
    from pathlib import Path

    with resources.as_file(resources.files("ldmref.apps.server") / "page") as folder:
        paths = [
            path for path in Path(folder).rglob("*") if path.suffix in (".js", ".html", ".css")
        ]
        texts = {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in paths}
    own = {name: text for name, text in texts.items() if "vendor" not in name}
    assert "js/main.js" in own
    for name, text in own.items():
        assert name.endswith(".css") or text.count("\n") <= 600, name
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in text, (name, word)
        addresses = [part for part in text.split("http")[1:] if part.startswith(("://", "s://"))]
        names = ("://www.w3.org/2000/svg", "://www.w3.org/1998/Math/MathML")  # of XML, not fetched
        assert all(part.startswith(names) for part in addresses), name
