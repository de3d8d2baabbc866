"""The messages of the Model Context Protocol, without a transport."""

import io
import json

import pytest

from ldmref.apps.mcp import Protocol, make_tools
from ldmref.apps.mcp.generation import image_schema
from ldmref.apps.mcp.protocol import Tool, is_tool_call, make_text, parse_message
from ldmref.apps.mcp.stdio import serve_stdio
from ldmref.errors import UsageError


@pytest.fixture
def protocol():
    return Protocol(make_tools(lambda arguments, call: [], image_schema(), run_code=True))


def call(protocol, tool, /, **arguments):
    """Return the result of a tool, whose text is JSON."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    params = {"name": tool, "arguments": arguments}
    result = protocol.answer(message | {"params": params})["result"]
    text = result["content"][0]["text"]
    return text if result["isError"] else json.loads(text)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"{", -32700),
        (b"[" * 100_000, -32700),
        (b"[]", -32600),
        (b'{"id": 1, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": true, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": [1], "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": 3}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "resources/list"}', -32601),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call"}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"rm"}}', -32602),
    ],
)
def test_wrong_messages_get_the_code_of_json_rpc(protocol, message, code):
    read, refusal = parse_message(message)
    assert (refusal or protocol.answer(read))["error"]["code"] == code


def test_only_calls_of_tools_are_tool_calls():
    named = {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"text": "tools/call"}}
    assert not is_tool_call(named) and not is_tool_call(["tools/call"])
    assert is_tool_call(named | {"method": "tools/call"})


def test_notifications_and_responses_are_not_answered(protocol):
    for message in (
        {"method": "notifications/initialized"},
        {"method": "notifications/cancelled", "params": {"requestId": 7}},
        {"method": "unknown"},
        {"id": 3, "result": {}},
    ):
        assert protocol.answer({"jsonrpc": "2.0"} | message) is None


@pytest.mark.parametrize(
    ("asked", "agreed"),
    [("2024-11-05", "2024-11-05"), ("2025-06-18", "2025-06-18"), ("1999", "2025-11-25")],
)
def test_the_version_of_the_client_is_used_if_it_is_known(protocol, asked, agreed):
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize"}
    answer = protocol.answer(message | {"params": {"protocolVersion": asked}})
    assert answer["result"]["protocolVersion"] == agreed


def test_the_schema_of_generate_image_has_no_files_and_no_arrays():
    names = set(image_schema()["properties"])
    assert {"prompt", "seed", "steps", "sampler", "guidance"} <= names
    assert not {"control", "latents", "prompt_embeds", "image", "mask"} & names


def test_a_wrong_value_of_another_implementation_is_seen(protocol):
    arguments = {"xt": [1.0, 2.0], "v": [0.5, 0.5], "alpha_bar": 0.64}
    right = [0.8 * 1.0 - 0.6 * 0.5, 0.8 * 2.0 - 0.6 * 0.5]
    wrong = [0.8 * 1.0 + 0.6 * 0.5, 0.8 * 2.0 + 0.6 * 0.5]
    for values, largest in ((right, 0.0), (wrong, 0.6)):
        answer = call(
            protocol, "check_formula", name="x0_from_v", arguments=arguments, result=values, cases=1
        )
        assert answer["value"] == pytest.approx(right)
        assert answer["difference"][0]["largest"] == pytest.approx(largest, abs=1e-12)


def test_code_is_checked_against_the_identities(protocol):
    name = "classifier_free_guidance"
    formula = "def {}(uncond, cond, scale):\n    return uncond {} scale * (cond - uncond)"
    right = call(protocol, "check_formula", name=name, code=formula.format(name, "+"), cases=5)
    wrong = call(protocol, "check_formula", name=name, code=formula.format(name, "-"), cases=5)
    assert right["identities"] and right["holds"] and not wrong["holds"]


def test_code_is_checked_at_the_edges_on_request(protocol):
    code = "def sigma_from_alpha_bar(alpha_bar):\n    return (1 / alpha_bar - 1) ** 0.5\n"
    arguments = {"name": "sigma_from_alpha_bar", "code": code, "cases": 4}
    assert call(protocol, "check_formula", **arguments)["holds"]
    answer = call(protocol, "check_formula", **arguments, hard=True)
    assert not answer["holds"]
    assert any("alpha_bar = 1 - " in row["edge"] for row in answer["identities"])


def test_code_cannot_be_sent_where_it_is_not_run():
    protocol = Protocol(make_tools(lambda arguments, call: [], {}, run_code=False))
    tool = protocol.tools["check_formula"]
    assert "code" not in tool.schema["properties"]
    assert "unknown key code" in call(protocol, "check_formula", name="snr", code="1/0")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "q_smaple"}, "did you mean 'q_sample'"),
        ({"name": "snr", "cases": 0}, "cases"),
        ({"name": "snr", "result": 1}, "arguments"),
        ({"name": "snr", "arguments": [1]}, "must be an object"),
        ({"name": "snr", "arguments": {"alpha": 0.5}}, "signature"),
        ({"name": "snr", "arguments": {"alpha_bar": [[1], [1, 2]]}}, "equal lengths"),
        ({"name": "linear_betas", "arguments": {"n": 10**9}}, "10000"),
        ({"name": "snr", "arguments": {"alpha_bar": [0.5] * 10_001}}, "10000"),
        ({"name": "snr", "arguments": {"alpha_bar": 0.5}, "result": [1, 2]}, "expected_shape"),
        ({"name": "snr", "code": "import nothing_here"}, "nothing_here"),
        ({"name": "snr", "code": "x = 1"}, "does not define a function snr"),
    ],
)
def test_wrong_arguments_are_explained(protocol, arguments, words):
    assert words in json.dumps(call(protocol, "check_formula", **arguments))


def test_an_error_of_a_tool_is_part_of_its_result_and_a_fault_is_not_shown():
    def refuse(arguments, call):
        raise UsageError("no", code="E-USAGE", hint="yes")

    def fail(arguments, call):
        raise RuntimeError("/home/someone/secret")

    protocol = Protocol([Tool("refuse", "", {}, refuse), Tool("fail", "", {}, fail)])
    assert call(protocol, "refuse") == "no (hint: yes)"
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "fail"}}
    assert "secret" not in json.dumps(protocol.answer(message))


def test_a_running_tool_can_be_cancelled_and_reports_progress():
    sent = []

    def work(arguments, call):
        call.progress(1, 2)
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled"}
        protocol.answer(cancel | {"params": {"requestId": 5}})
        return [make_text(json.dumps(call.cancel.is_set()))]

    protocol = Protocol([Tool("work", "", {}, work)])
    params = {"name": "work", "_meta": {"progressToken": "t"}}
    message = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": params}
    assert protocol.answer(message, sent.append)["result"]["content"][0]["text"] == "true"
    assert sent[0]["params"] == {"progressToken": "t", "progress": 1, "total": 2}


def test_messages_over_standard_streams_are_lines(protocol):
    lines = [
        b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}',
        b"",
        b"not json",
        b'{"jsonrpc": "2.0", "id": 2, "method": "tools/call", '
        b'"params": {"name": "where_implementations_differ"}}',
    ]
    answers = io.BytesIO()
    serve_stdio(protocol, io.BytesIO(b"\n".join(lines)), answers)
    rows = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert {row["id"]: "result" in row for row in rows} == {1: True, None: False, 2: True}
