"""A server of the Model Context Protocol: tools for coding agents.

`ldmref mcp` serves them on standard input and output, `ldmref serve` at /mcp.

Source: Model Context Protocol, specification of 2025-06-18, https://modelcontextprotocol.io.
"""

from ldmref.apps.mcp.formulas import check_formula
from ldmref.apps.mcp.protocol import Protocol, Tool
from ldmref.apps.mcp.tools import make_tools

__all__ = ["Protocol", "Tool", "check_formula", "make_tools"]


def __dir__() -> list[str]:
    return __all__
