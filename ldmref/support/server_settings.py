"""The settings of the server: flags of `ldmref serve`, and the table `[server]` of ldmref.toml."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ldmref.declare import Doc, Flag, Range
from ldmref.support.addresses import is_loopback

MEBI = 2**20


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Address, access and limits of a server; every field has a default."""

    host: Annotated[
        str, Flag(metavar="ADDRESS"), Doc("Address to listen on; 0.0.0.0 is every interface.")
    ] = "127.0.0.1"
    port: Annotated[int, Range(0, 65535), Doc("Port to listen on; 0 takes a free one.")] = 7860
    token: Annotated[
        str | None,
        Flag(metavar="TEXT"),
        Doc("Text that every request must carry, as bearer token or as password.", "none"),
    ] = field(default=None, repr=False)
    insecure_no_token: Annotated[
        bool, Doc("Allow an address that other machines can reach without a token.")
    ] = False
    allow_host: Annotated[
        tuple[str, ...],
        Flag(metavar="NAME", multiple=True),
        Doc(
            "Another name under which clients reach the server, such as host.docker.internal. May "
            "be repeated."
        ),
    ] = ()
    allow_origin: Annotated[
        tuple[str, ...],
        Flag(metavar="URL", multiple=True),
        Doc("Web page that may send requests from a browser (CORS). May be repeated."),
    ] = ()
    queue: Annotated[
        int, Range(0, 10_000), Doc("Jobs that may wait for each device; more are refused.")
    ] = 8
    lifetime: Annotated[
        float, Range(0, 1e7), Doc("Seconds for which a result is kept after its job has ended.")
    ] = 600.0
    max_results: Annotated[
        int,
        Range(0),
        Doc("Bytes of results that are kept; the oldest leave before their lifetime ends."),
    ] = 256 * MEBI
    max_body: Annotated[int, Range(1), Doc("Bytes of a request at most.")] = 64 * MEBI
    body_timeout: Annotated[
        float, Range(0, 86_400, above=True), Doc("Seconds in which a request must arrive.")
    ] = 120.0
    max_pixels: Annotated[
        int, Range(1, 64_000_000), Doc("Pixels of an image in a request at most.")
    ] = 16_000_000
    max_images: Annotated[int, Range(1, 10_000), Doc("Images that one job may generate.")] = 64
    max_connections: Annotated[
        int, Range(1, 60_000), Doc("Connections at the same time, idle event streams included.")
    ] = 2000
    max_streams: Annotated[
        int, Range(1, 60_000), Doc("Event streams that one client address may keep open.")
    ] = 200
    lora_folder: Annotated[
        str | None,
        Flag(metavar="FOLDER"),
        Doc("Folder of LoRA files, which requests may apply by name.", "none"),
    ] = None
    embedding_folder: Annotated[
        str | None,
        Flag(metavar="FOLDER"),
        Doc("Folder of textual-inversion files, whose words requests may use.", "none"),
    ] = None
    styles: Annotated[
        str | None,
        Flag(metavar="FILE.csv"),
        Doc("Styles for the web page, in the format of A1111's styles.csv.", "none"),
    ] = None
    wildcards: Annotated[
        str | None,
        Flag(metavar="FOLDER"),
        Doc("Folder of files NAME.txt: __NAME__ in a prompt becomes one of its lines.", "none"),
    ] = None
    page: Annotated[bool, Flag(()), Doc("Serve the web page at /.")] = True

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the address."""
        return is_loopback(self.host)
