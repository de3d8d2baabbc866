"""What people run and do not import: the command line, the server, tools for coding agents.

| package | holds |
|---|---|
| `cli` | the command `ldmref` |
| `server` | `ldmref serve`: HTTP interfaces and the web page |
| `mcp` | `ldmref mcp`: tools for coding agents |
| `a1111` | what A1111's settings mean here, for the command line and the server |
"""
