"""Names and addresses of machines, as headers and settings write them."""

from __future__ import annotations

import ipaddress

from ldmref.errors import UsageError, short_repr

LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")


def split_authority(text: str) -> tuple[str, str] | None:
    """Return the name and the port of `name:port`, or None if it is not of this form.

    Names are in lower case, without the final dot; addresses have their shortest form, without
    brackets. The port is "" if there is none.

    >>> split_authority("LOCALHOST.:80"), split_authority("[0:0::1]:7860"), split_authority("a@b")
    (('localhost', '80'), ('::1', '7860'), None)
    """
    bracketed = text.startswith("[")
    end = text.find("]") if bracketed else text.find(":")
    if bracketed:
        name, rest = text[1:end], text[end + 1 :]
    else:
        name, rest = (text, "") if end < 0 else (text[:end], text[end:])
    port = rest[1:]
    port_is_valid = not port or (port.isascii() and port.isdecimal() and int(port[:6]) < 65_536)
    if (bracketed and end < 0) or rest[:1] not in ("", ":") or not port_is_valid:
        return None
    address = as_address(name)
    if bracketed and (address is None or ":" not in address):
        return None
    name = address or name.lower().removesuffix(".")
    if not name or (address is None and not LABEL.issuperset(name)):
        return None
    return name, port


def as_address(name: str) -> str | None:
    """Return an IP address in its shortest form, or None for a name."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return None


def is_loopback(name: str) -> bool:
    """Return whether a name or an address always means this machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = as_address(name)
    if address is None:
        return False
    ip = ipaddress.ip_address(address)
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


def read_host(text: str) -> str:
    """Return a name that `--allow-host` gives.

    Raises:
        UsageError: `text` is not a name or an address without a port.
    """
    address = as_address(text.removeprefix("[").removesuffix("]"))
    if address is not None:
        return address
    parts = split_authority(text)
    if parts is None or parts[1] or ":" in text:
        raise UsageError(
            f"{short_repr(text)} is not the name of a host",
            code="E-HOST",
            hint="write a name without scheme and port, such as host.docker.internal",
        )
    return parts[0]
