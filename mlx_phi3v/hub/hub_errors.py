"""What the hub answered, as a sentence with the fix. No sentence holds an address or a header: they may carry a token."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from ..errors import UserError
from ..redaction import redacted

_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
_AGAIN = "run the same command again: it goes on where it ended"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Whether this is the form of a repository's name on the hub, OWNER/NAME."""
    return bool(_HUB_ID.fullmatch(name)) and name.isascii()


def check_repo(name: str, flag: str) -> None:
    """Raise UserError unless `name` may be a repository of the hub; `flag` is where it was given."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
        known = is_hub_id(name)
    except HFValidationError:
        known = False
    if not known:
        raise UserError(
            f"{flag} {redacted(name)!r} is no name of a repository; give OWNER/NAME, of letters, digits, -, _ and ., "
            "where OWNER is your name on the hub, or that of your organisation"
        )


def hub_sentence(error: BaseException, repo: str) -> str:
    """What became of a request about `repo`, and the fix."""
    chain = list(_chain(error))
    names = {kind.__name__ for cause in chain for kind in type(cause).__mro__}
    status = next((found for cause in chain if (found := _status(cause))), None)
    if "LocalTokenNotFoundError" in names:
        return f"there is no token of the hub; {_LOGIN}"
    if "OfflineModeIsEnabled" in names:
        return "HF_HUB_OFFLINE is set, so the hub is not asked; unset it"
    if "GatedRepoError" in names:
        return f"{repo} is given out on request only; ask for it on its page on the hub, then {_LOGIN}"
    if "RevisionNotFoundError" in names:
        return f"{repo} has no such branch; check --revision"
    if any("metadata in README.md" in str(cause) for cause in chain if type(cause) is ValueError):
        return "the hub does not take the head of README.md; correct its YAML"
    if status == 401 and "RepositoryNotFoundError" not in names:
        return f"the hub does not know your token (HTTP 401); {_LOGIN}"
    if status in (401, 404):
        return f"the hub has no {repo}, or does not show it to you (HTTP {status}); check the name, and {_LOGIN}"
    if status is not None:
        return _of_status(status, repo)
    if names & {"ConnectError", "TimeoutException", "NetworkError", "ProtocolError", "ConnectionError", "TransportError"}:
        return f"the hub ({host()}) cannot be reached; check the network and HF_ENDPOINT, then {_AGAIN}"
    return f"{type(chain[-1]).__name__} while speaking with the hub ({host()}); {_AGAIN}"


def _of_status(status: int, repo: str) -> str:
    if status == 403:
        return (
            f"your token may not do this to {repo} (HTTP 403); make one with the right to write at "
            f"{host()}/settings/tokens, and {_LOGIN}"
        )
    if status == 402:
        return f"the hub asks to be paid for {repo} (HTTP 402); see the owner's plan, or upload it --public"
    if status in (409, 412):
        return f"another process is writing to {repo} (HTTP {status}); {_AGAIN}"
    if status == 413 or status == 507:
        return f"the hub has no room for {repo} (HTTP {status}); remove other files there"
    if status == 429:
        return f"the hub asks to wait, as there were too many requests (HTTP 429); in some minutes {_AGAIN}"
    if status >= 500:
        return f"the hub has a fault (HTTP {status}); in some minutes {_AGAIN}"
    return f"the hub refused it (HTTP {status}); check the name of {repo}"


def host() -> str:
    """The hub that is asked, as HF_ENDPOINT names it; without what an address may carry beside."""
    from huggingface_hub import constants

    return urlsplit(constants.ENDPOINT).netloc.rpartition("@")[2] or redacted(constants.ENDPOINT)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and its causes, the outermost first."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _status(error: BaseException) -> int | None:
    found = getattr(getattr(error, "response", None), "status_code", None)
    return found if isinstance(found, int) else None


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed in a moment: another's commit, too many requests, a fault of the hub."""
    status = next((found for cause in _chain(error) if (found := _status(cause))), None)
    return status is not None and (status in (409, 412, 429) or status >= 500)


class _Redacting(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), None
        return True


@contextlib.contextmanager
def quiet_log() -> Iterator[None]:
    """Hide tokens in what huggingface_hub logs: it names the addresses of requests that fail."""
    from huggingface_hub.utils import logging as hub_logging

    hider = _Redacting()
    handlers = [*hub_logging.get_logger("huggingface_hub").handlers, *logging.getLogger().handlers]
    for handler in handlers:
        handler.addFilter(hider)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(hider)
