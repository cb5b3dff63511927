"""Downloads the photos that a catalogue names by URL: many at once, politely, each one whole or not at all.

A photo is stored under the hash of its URL, and so is the reason of a failure. A run that was killed finds both and
requests neither again.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

import httpcore
import httpx

from .addresses import AddressRefusedError, GuardedBackend
from .download_store import DownloadStore, url_key

_REDIRECTS = {301, 302, 303, 307, 308}
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_MAX_REDIRECTS = 5
_LENGTH_DIGITS = 18  # of a Content-Length that may be meant
_USER_AGENT = "mlx-phi3v-ingest"


@dataclass(frozen=True)
class FetchLimits:
    """Bounds of the downloads: counts, seconds and bytes.

    `timeout` bounds a silence, `total_timeout` one whole attempt. `longest_wait` is the most that Retry-After may ask.
    """

    max_bytes: int = 50_000_000
    connections: int = 32
    per_host: int = 8
    timeout: float = 20.0
    total_timeout: float = 180.0
    retries: int = 4
    backoff: float = 0.5
    longest_wait: float = 120.0


@dataclass
class FetchCounts:
    """How far the downloads are; handed to the progress callback."""

    done: int = 0
    fetched: int = 0
    failed: int = 0
    found: int = 0  # stored by an earlier run
    bytes: int = 0


class _FetchError(Exception):
    """One attempt failed. `reason` is a short fixed word; again: whether a retry may help, after `wait` seconds if given."""

    def __init__(self, reason: str, detail: str, *, again: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
        self.again = again
        self.wait = wait


@dataclass
class _Host:
    """What is known of one host while its URLs are fetched."""

    slots: asyncio.Semaphore
    not_before: float = 0.0  # on time.monotonic(), as its Retry-After asked
    users: int = 0


@dataclass
class Downloader:
    """Fetches URLs into `store`. `backend` decides which addresses may be reached."""

    store: DownloadStore
    limits: FetchLimits = field(default_factory=FetchLimits)
    backend: GuardedBackend = field(default_factory=GuardedBackend)
    progress: Callable[[FetchCounts], None] | None = None
    counts: FetchCounts = field(default_factory=FetchCounts)
    _hosts: dict[str, _Host] = field(default_factory=dict)
    _busy: set[str] = field(default_factory=set)

    def run(self, urls: Iterable[str]) -> FetchCounts:
        """Fetch all `urls` that are not done yet; an iterator is read as needed."""
        try:
            asyncio.run(self._run(iter(urls)))
        except BaseExceptionGroup as group:  # several downloads may meet one full disk: one error is enough
            raise group.exceptions[0] from None
        return self.counts

    async def _run(self, urls: Iterable[str]) -> None:
        pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context(),
            max_connections=self.limits.connections,
            max_keepalive_connections=self.limits.connections,
            keepalive_expiry=10,
            network_backend=self.backend,
        )
        source = iter(urls)
        async with pool, asyncio.TaskGroup() as group:
            for _ in range(self.limits.connections):
                group.create_task(self._worker(pool, source))

    async def _worker(self, pool: httpcore.AsyncConnectionPool, urls: Iterable[str]) -> None:
        for url in urls:
            key = url_key(url)
            if key in self._busy:
                continue
            if self.store.is_done(url):
                self.counts.found += 1
            else:
                self._busy.add(key)
                try:
                    await self._fetch(pool, url)
                finally:
                    self._busy.discard(key)
            self.counts.done += 1
            if self.progress:
                self.progress(self.counts)
            await asyncio.sleep(0)  # a long run of finished URLs must not starve the others

    async def _fetch(self, pool: httpcore.AsyncConnectionPool, url: str) -> None:
        try:
            data = await self._with_retries(pool, url)
        except _FetchError as error:
            self.counts.failed += 1
            self.store.save_failure(url, error.reason, error.detail)
            return
        except MemoryError:
            raise
        except Exception as error:  # what a server may cause and nobody foresaw ends this photo, not the ingest
            self.counts.failed += 1
            self.store.save_failure(url, "download_failed", f"{type(error).__name__}: {error}")
            return
        self.store.save(url, data)
        self.counts.fetched += 1
        self.counts.bytes += len(data)

    async def _with_retries(self, pool: httpcore.AsyncConnectionPool, url: str) -> bytes:
        for attempt in range(self.limits.retries + 1):
            try:
                return await self._follow(pool, url)
            except _FetchError as error:
                if not error.again or attempt == self.limits.retries:
                    raise
                if error.wait is not None and error.wait > self.limits.longest_wait:
                    raise
                if error.wait is None:  # a server that names its time is waited for by all its URLs, in `_follow`
                    await asyncio.sleep(self.limits.backoff * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _follow(self, pool: httpcore.AsyncConnectionPool, url: str) -> bytes:
        """One attempt, redirects followed by hand so that each goes through the same checks."""
        for _ in range(_MAX_REDIRECTS + 1):
            target = parse_url(url)
            async with self._turn(target.netloc.decode("ascii")) as host:
                try:
                    async with asyncio.timeout(self.limits.total_timeout):
                        answer = await self._request(pool, target, host)
                except TimeoutError:
                    raise _FetchError("download_timeout", "took too long", again=True) from None
            if isinstance(answer, bytes):
                return answer
            try:
                url = str(target.join(answer))
            except (httpx.InvalidURL, ValueError):
                raise _FetchError("download_bad_url", f"redirected to {answer[:100]}") from None
        raise _FetchError("download_too_many_redirects", f"more than {_MAX_REDIRECTS}")

    @contextlib.asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[_Host]:
        """Wait for one of the host's slots and for the time it asked for."""
        host = self._hosts.setdefault(name, _Host(asyncio.Semaphore(self.limits.per_host)))
        host.users += 1
        try:
            async with host.slots:
                while (wait := host.not_before - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                yield host
        finally:
            host.users -= 1
            if host.users == 0 and host.not_before <= time.monotonic():
                self._hosts.pop(name, None)

    async def _request(self, pool: httpcore.AsyncConnectionPool, target: httpx.URL, host: _Host) -> bytes | str:
        """One request -> the body, or the URL of a redirect."""
        wait = self.limits.timeout
        # No compression: the byte limit must hold for what is read and for what it unpacks to.
        headers: dict[bytes | str, bytes | str] = {
            "Host": target.netloc,
            "User-Agent": _USER_AGENT,
            "Accept": "image/*",
            "Accept-Encoding": "identity",
        }
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), wait)
        timeouts["pool"] = self.limits.total_timeout
        address = httpcore.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path)
        try:
            async with pool.stream("GET", address, headers=headers, extensions={"timeout": timeouts}) as response:
                answer = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
                if response.status in _REDIRECTS and "location" in answer:
                    return answer["location"]
                self._check_status(response.status, answer, host)
                return await self._body(response, answer)
        except AddressRefusedError as error:
            raise _FetchError("download_private_address", str(error)) from None
        except (httpcore.TimeoutException, TimeoutError) as error:
            raise _FetchError("download_timeout", type(error).__name__, again=True) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError) as error:
            raise _FetchError("download_connection", str(error) or type(error).__name__, again=True) from None
        except (httpcore.UnsupportedProtocol, ValueError) as error:
            raise _FetchError("download_bad_url", str(error)) from None

    def _check_status(self, status: int, headers: dict[str, str], host: _Host) -> None:
        if status == 200:
            return
        if status not in _TRANSIENT:
            raise _FetchError(f"download_http_{status}", "")
        wait = retry_after(headers.get("retry-after"))
        if wait is not None and wait <= self.limits.longest_wait:
            host.not_before = max(host.not_before, time.monotonic() + wait)
        raise _FetchError(f"download_http_{status}", "", again=True, wait=wait)

    async def _body(self, response: httpcore.Response, headers: dict[str, str]) -> bytes:
        limit = self.limits.max_bytes
        if headers.get("content-encoding", "identity") != "identity":
            raise _FetchError("download_compressed", headers["content-encoding"])
        length = headers.get("content-length", "")
        if length.isdecimal() and (len(length) > _LENGTH_DIGITS or int(length) > limit):
            raise _FetchError("download_too_many_bytes", f"{length[:_LENGTH_DIGITS]} announced")
        data = bytearray()
        async for piece in response.aiter_stream():
            data += piece
            if len(data) > limit:
                raise _FetchError("download_too_many_bytes", f"more than {limit}")
        return bytes(data)


def parse_url(url: str) -> httpx.URL:
    """A URL that may be fetched: http or https with a host. Raises _FetchError."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError, UnicodeError):
        raise _FetchError("download_bad_url", url[:100]) from None
    if parsed.scheme not in ("http", "https"):
        raise _FetchError("download_scheme", parsed.scheme)
    if not parsed.host or not (parsed.port is None or 0 < parsed.port < 65536):
        raise _FetchError("download_bad_url", url[:100])
    return parsed


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, in either of its forms; None where there is none that can be read."""
    try:
        if not value or value.strip().isdecimal():
            return float(value) if value else None
        moment = email.utils.parsedate_to_datetime(value)
        return max(0.0, moment.timestamp() - time.time())
    except Exception:  # a date of the year 99999, a zone of 99 hours: the parser raises nearly anything
        return None


def ssl_context() -> ssl.SSLContext:
    """TLS that checks certificates, with httpx's choice of trusted roots."""
    return httpx.create_ssl_context(trust_env=False)
