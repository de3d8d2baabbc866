"""`ldmref completion`: scripts for shells that complete commands, flags and names."""

from __future__ import annotations

import json

import click
from click.shell_completion import get_completion_class, shell_complete

VARIABLE = "_LDMREF_COMPLETE"  # set by the script to request completions
SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_context
def completion(ctx: click.Context, shell: str, as_json: bool) -> None:
    """Print a shell script that completes commands, flags and names.

    Save the script as follows; its folder must exist.

    \b
    bash:  ldmref completion bash > ~/.local/share/bash-completion/completions/ldmref
    zsh:   ldmref completion zsh > ~/.ldmref.zsh; echo '. ~/.ldmref.zsh' >> ~/.zshrc
    fish:  ldmref completion fish > ~/.config/fish/completions/ldmref.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(ctx.find_root().command, {}, "ldmref", VARIABLE).source()
    click.echo(json.dumps({"shell": shell, "script": script}) if as_json else script)


COMMANDS = (completion,)


def complete(cli: click.Command, instruction: str) -> int:
    """Answer a request of the script, and return the exit code."""
    return shell_complete(cli, {}, "ldmref", VARIABLE, instruction)
