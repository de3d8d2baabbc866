"""The messages of the protocol: JSON-RPC 2.0 requests in, responses out.

The four methods below do not use the official `mcp` package, whose client the tests run against
them. Its server (2.3.0) was tried: it takes 1.6 s to import, eight times what NumPy takes on the
same machine, and brings 28 packages of 10 MB. On standard input, Ctrl-C does not end it before the
next line comes, a line that is no JSON is not answered, and a call that was read before the end of
the input is dropped.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ldmref.errors import Cancelled, LdmrefError
from ldmref.support.version import __version__

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
PARSE_ERROR = -32700
CALL = "tools/call"  # the method that runs a tool
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

Message = dict[str, Any]
Content = list[dict[str, Any]]
Notify = Callable[[Message], None]


@dataclass(frozen=True)
class ToolCall:
    """The surroundings of a running tool.

    Args:
        progress: `progress(step, steps)` reports how far the tool is.
        cancel: Set when the client cancels the call.
    """

    progress: Callable[[int, int], None] = lambda step, steps: None
    cancel: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Tool:
    """A tool that clients call.

    Args:
        name: Its name.
        description: When to use it, for the model that reads it.
        schema: JSON schema of its arguments.
        call: `call(arguments, call)` returns the content of the answer; it raises `LdmrefError` for
            arguments that are not valid.

    >>> from ldmref.apps.mcp import Tool
    >>> Tool("hello", "Greets.", {"type": "object"}, lambda arguments, call: []).describe()["name"]
    'hello'
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    call: Callable[[Mapping[str, Any], ToolCall], Content]

    def describe(self) -> dict[str, Any]:
        """Return the entry of `tools/list`."""
        return {
            "name": self.name,
            "description": self.description,
            "inputSchema": dict(self.schema),
        }


class RpcError(Exception):
    """A request that gets a JSON-RPC error instead of a result."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


class Protocol:
    """Answers messages with the given tools; safe to use from several threads.

    Args:
        tools: The tools, with different names.

    >>> from ldmref.apps.mcp import Protocol, Tool
    >>> hello = Tool("hello", "Greets.", {"type": "object"}, lambda arguments, call: [])
    >>> protocol = Protocol([hello])
    >>> answer = protocol.answer({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    >>> [tool["name"] for tool in answer["result"]["tools"]]
    ['hello']
    """

    def __init__(self, tools: Iterable[Tool]):
        self.tools = {tool.name: tool for tool in tools}
        self._running: dict[str | int, threading.Event] = {}

    def cancel_all(self) -> None:
        """Cancel all tools that run or wait."""
        for event in list(self._running.values()):
            event.set()

    def accept(self, message: Any) -> None:
        """Note a message that `answer` will get later, so that the client can cancel it now."""
        id = message.get("id") if is_tool_call(message) else None
        if isinstance(id, str | int):
            self._running.setdefault(id, threading.Event())

    def answer(self, message: object, notify: Notify | None = None) -> Message | None:
        """Return the response to a message, or None for a notification or a response.

        Args:
            message: A JSON-RPC message.
            notify: Sends notifications to the client while the request is answered. None: they are
                not sent.
        """
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            return make_error(None, INVALID_REQUEST, "a message is an object with jsonrpc 2.0")
        if "method" not in message and ("result" in message or "error" in message):
            return None
        id = message.get("id")
        if isinstance(id, bool) or not isinstance(id, str | int | None):
            return make_error(None, INVALID_REQUEST, "id must be a string or an integer")
        method = message.get("method")
        params = message.get("params", {})
        if not isinstance(method, str) or not isinstance(params, dict):
            return make_error(id, INVALID_REQUEST, "method must be a string, params an object")
        if id is None:
            self._notice(method, params)
            return None
        try:
            result = self._dispatch(id, method, params, notify)
        except RpcError as error:
            return make_error(id, error.code, str(error))
        except Exception as error:
            return make_error(id, INTERNAL_ERROR, f"internal error: {type(error).__name__}")
        return {"jsonrpc": "2.0", "id": id, "result": result}

    def _notice(self, method: str, params: Message) -> None:
        """Act on a notification; unknown ones are ignored, as the specification says."""
        running = params.get("requestId")
        if method == "notifications/cancelled" and isinstance(running, str | int):
            event = self._running.get(running)
            if event is not None:
                event.set()

    def _dispatch(
        self, id: str | int, method: str, params: Message, notify: Notify | None
    ) -> dict[str, Any]:
        if method == "initialize":
            return self._initialize(params)
        if method == "ping":
            return {}
        if method == "tools/list":
            return {"tools": [tool.describe() for tool in self.tools.values()]}
        if method == CALL:
            return self._call_tool(id, params, notify)
        raise RpcError(METHOD_NOT_FOUND, f"unknown method {method!r}")

    def _initialize(self, params: Message) -> dict[str, Any]:
        """Agree on a version: the client's if it is known here, otherwise the newest."""
        asked = params.get("protocolVersion")
        return {
            "protocolVersion": asked if asked in VERSIONS else VERSIONS[0],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "ldmref", "title": "ldmref", "version": __version__},
            "instructions": "A reference implementation of latent diffusion: generate images with "
            "a small model, verify formulas, look up where implementations differ.",
        }

    def _call_tool(self, id: str | int, params: Message, notify: Notify | None) -> dict[str, Any]:
        """Run a tool; errors of the tool are part of its result, so that the model reads them."""
        event = self._running.setdefault(id, threading.Event())
        try:
            tool, arguments = self._find_tool(params)
            if event.is_set():
                raise Cancelled("cancelled before it began", code="E-CANCELLED")
            content = tool.call(arguments, ToolCall(make_progress(params, notify), event))
        except Cancelled:
            return {"content": [make_text("cancelled")], "isError": True}
        except LdmrefError as error:
            text = f"{error} (hint: {error.hint})" if error.hint else str(error)
            return {"content": [make_text(text)], "isError": True}
        finally:
            self._running.pop(id, None)
        return {"content": content, "isError": False}

    def _find_tool(self, params: Message) -> tuple[Tool, Message]:
        """Return the tool that a call names, and its arguments.

        Raises:
            RpcError: There is no such tool, or the arguments are not an object.
        """
        name = params.get("name")
        arguments = params.get("arguments", {})
        tool = self.tools.get(name) if isinstance(name, str) else None
        if tool is None:
            known = ", ".join(self.tools)
            raise RpcError(INVALID_PARAMS, f"unknown tool {str(name)[:80]!r}; known: {known}")
        if not isinstance(arguments, dict):
            raise RpcError(INVALID_PARAMS, "arguments must be an object")
        return tool, arguments


def make_progress(params: Message, notify: Notify | None) -> Callable[[int, int], None]:
    """Return the function with which a tool reports progress, if the client asked for it."""
    meta = params.get("_meta")
    token = meta.get("progressToken") if isinstance(meta, dict) else None
    if notify is None or not isinstance(token, str | int):
        return lambda step, steps: None

    def progress(step: int, steps: int) -> None:
        report = {"progressToken": token, "progress": step, "total": steps}
        notify({"jsonrpc": "2.0", "method": "notifications/progress", "params": report})

    return progress


def parse_message(text: str | bytes) -> tuple[Any, Message | None]:
    """Return a message in JSON, and the response to one that is not valid."""
    try:
        return json.loads(text), None
    except (ValueError, RecursionError):
        return None, make_error(None, PARSE_ERROR, "the message is not valid JSON")


def is_tool_call(message: object) -> bool:
    """Return whether a message asks to run a tool, which may take long."""
    return isinstance(message, dict) and message.get("method") == CALL


def make_error(id: str | int | None, code: int, message: str) -> Message:
    """Return a response with an error."""
    return {"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}


def make_text(text: str) -> dict[str, Any]:
    """Return content of text."""
    return {"type": "text", "text": text}
