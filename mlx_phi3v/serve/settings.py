"""The settings of the server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .. import shared_options
from ..backend_names import BACKENDS, default_backend
from ..cli import option
from ..errors import UserError
from ..ranges import MAX_BATCH, MAX_GB, MAX_TOKENS

_HOST_NAME = re.compile(r"[\w.-]{1,253}|[0-9A-Fa-f:.]{2,45}")  # a name, or an address of either kind
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,200}")  # unreserved in a URL


@dataclass(frozen=True)
class ServeConfig:
    """Settings of the server."""

    model: str = option("tiny", help="checkpoint folder, hub id, or 'tiny' (built in)", path=True)
    adapter: str | None = option(None, help="LoRA adapter or training run", path=True)
    compare: str | None = option(
        None, help="a second model, shown beside the first: an adapter or training run of --model, or another model", path=True
    )
    backend: str = option(default_backend(), help="framework to run on", choices=BACKENDS)
    dtype: str | None = shared_options.compute_dtype()
    kv_bits: int | None = shared_options.kv_bits()
    compile: bool = shared_options.compiled_step()
    num_crops: int | None = shared_options.answered_crops()
    max_new_tokens: int = option(
        1024, help="longest answer that a request may ask for, in tokens", at_least=1, at_most=MAX_TOKENS
    )
    batch_size: int = option(16, help="requests answered together; does not change the answers", at_least=1, at_most=MAX_BATCH)
    prefix_cache_gb: float = option(
        1.0, help="memory for the last conversations of each model, of which only what is new is read; 0 reads all",
        at_least=0, at_most=MAX_GB,
    )  # fmt: skip
    host: str = option("127.0.0.1", help="address to listen on; any but this machine's own takes a token")
    port: int = option(8080, help="port to listen on; 0 takes a free one", at_least=0, at_most=65_535)
    token: str | None = option(None, help="what a client must know; drawn where --host needs one and none is given")
    allow_host: tuple[str, ...] = option((), help="further names that clients may call this server by")
    corrections: Path | None = option(
        None, help="folder that the page saves corrected rows in, which data.ingest reads", writes="folder"
    )
    max_body_mb: float = option(25.0, help="largest request, in megabytes of 10**6 bytes", above=0, at_most=1000)
    json: bool = option(False, help="one JSON line with the address")

    def check_values(self, where: str) -> None:
        """Raises UserError for a token that cannot be part of an address, or is too short, and for what is no host's name."""
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise UserError(f"the token in {where} must be 16 to 200 letters, digits or any of . _ ~ -")
        for name in self.allow_host:
            if not _HOST_NAME.fullmatch(name):
                raise UserError(
                    f"--allow-host {name!r} is no name of a host; give it without http://, port and path: shop.example"
                )
