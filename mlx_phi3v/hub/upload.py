"""Upload a finished folder. What is there already is not sent again, so the same call goes on where a killed one ended.

`HfApi.upload_folder` does the work: contents are stored by their hash, and a file that has not changed is passed over. So
an upload of several gigabytes that was killed begins again with what is missing.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .. import __version__, interrupts
from ..commands import installed
from ..errors import UserError
from ..files import scratch_folder, scratch_of, write_text
from ..progress import note, result, say
from ..startup import leave_at_once
from ..text import listed
from .hub_errors import check_repo, hub_sentence, is_transient, quiet_log

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from .contents import Contents

T = TypeVar("T")
_TRIES = 3
# Of the disk, and faults of ours.
_NOT_OF_THE_HUB = (OSError, PermissionError, FileNotFoundError, AssertionError, AttributeError, NameError, TypeError)
_PAUSE = 5.0  # seconds before the second try, twice as many before the third


@dataclass(frozen=True)
class Destination:
    """Where to. `public` counts for a repository that is made; one that is there stays as it is."""

    repo: str
    public: bool = False
    revision: str | None = None


@contextlib.contextmanager
def then_upload(repo: str | None, folder: Path, *, public: bool = False, as_json: bool = False) -> Iterator[None]:
    """Upload `folder` once the block has ended well; nothing where `repo` is None.

    The name and the token are checked before the block, which may take hours. Raises UserError, see `upload`.
    """
    if repo is None:
        if public:
            raise UserError("--public is of --upload-repo OWNER/NAME; give that too, or leave it out")
        yield
        return
    destination = Destination(repo, public)
    check_access(destination, "--upload-repo")
    yield
    upload(folder, destination, as_json=as_json)


def check_access(to: Destination, flag: str) -> None:
    """Raise UserError where `to` is no name of a repository, or the hub does not know the user."""
    check_repo(to.repo, flag)
    with _said(to.repo, f"{flag} {to.repo}"):
        _api().whoami()


def upload(
    folder: Path,
    to: Destination,
    *,
    training_state: bool = False,
    licence: str | None = None,
    made_of: Path | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Upload what belongs on the hub of `folder`, with a card; a summary. See `contents.contents_of`.

    The folder stays as it is: a card that is made for the upload goes into a scratch folder of links. made_of: what the
    command was given, where `folder` goes with it.

    Raises UserError with one sentence where the hub does not take it; the same call then goes on.
    """
    from .card import written_beside  # what no command needs that uploads nothing
    from .contents import contents_of

    check_repo(to.repo, "--repo")
    found = contents_of(folder, training_state=training_state)
    if found.left_out:
        note(f"not uploaded, as they are no part of it: {listed(found.left_out, 5)}")
    staged = _stage(found, written_beside(found, to.repo, licence))
    how = "" if made_of else f" (`{_again(folder, to, training_state)}` goes on)"
    with _said(to.repo, f"{made_of or folder} is whole but not all of it is on the hub{how}"):
        url, commit, private = _send(staged, found, to, as_json)
    files = sum(path.is_file() for path in staged.rglob("*"))
    summary = {"repo": to.repo, "url": url, "commit": commit, "private": private, "files": files}
    result(as_json, event="uploaded", **summary)
    say(f"uploaded {made_of or folder} to {url} ({'private' if private else 'public'})", as_json=as_json)
    return summary


def _again(folder: Path, to: Destination, training_state: bool) -> str:
    """The command that goes on."""
    words = ["mlx_phi3v.upload"] if installed() else ["python", "-m", "mlx_phi3v.upload"]
    words += [str(folder), "--repo", to.repo, *(["--revision", to.revision] if to.revision else [])]
    words += [flag for flag, given in (("--public", to.public), ("--training-state", training_state)) if given]
    return shlex.join(words)


def _send(staged: Path, found: Contents, to: Destination, as_json: bool) -> tuple[str, str, bool]:
    """(address, commit, whether it is private)."""
    from .contents import STALE

    api = _api()
    kind = "dataset" if found.kind == "dataset" else "model"
    url = api.create_repo(to.repo, private=not to.public, repo_type=kind, exist_ok=True)
    private = bool(api.repo_info(to.repo, repo_type=kind).private)
    if private == to.public:
        note(f"{to.repo} is there and {'private' if private else 'public'}, and stays so; change it on its page on the hub")
    if to.revision:
        api.create_branch(to.repo, branch=to.revision, repo_type=kind, exist_ok=True)
    with _bars(as_json):
        options: dict[str, Any] = {
            "repo_id": to.repo, "folder_path": staged, "repo_type": kind, "revision": to.revision,
            "commit_message": f"Upload {found.kind} with mlx-phi3v {__version__}", "delete_patterns": STALE[found.kind],
        }  # fmt: skip
        for attempt in range(_TRIES):
            try:
                done = _beside(partial(api.upload_folder, **options), (staged, scratch_of(found.folder)))
                return str(url), done.oid, private
            except Exception as error:  # `_said` turns it into a sentence
                if attempt + 1 == _TRIES or not is_transient(error):
                    raise
                time.sleep(_PAUSE * 2**attempt)
    raise AssertionError("unreachable")


def _beside(work: Callable[[], T], scratch: Sequence[Path | None]) -> T:
    """What `work` returns, done in a thread of its own: a signal does not wait for requests that are under way.

    scratch: folders to remove then, as Python's own end, which would wait too, is left out.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    try:
        threading.Thread(target=run, daemon=True).start()
        return outcome.result()
    except KeyboardInterrupt:
        number = interrupts.received()
        if number is None:
            raise
        for folder in filter(None, scratch):
            shutil.rmtree(folder, ignore_errors=True)
        leave_at_once(number, None)
        raise


def _stage(found: Contents, written: Mapping[str, str]) -> Path:
    """A folder of links to the files, and of the texts `written` in their place or beside them."""
    staged = scratch_folder()
    for name, path in found.files.items():
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        if name not in written:
            (staged / name).symlink_to(path.resolve())
    for name, text in written.items():
        write_text(staged / name, text)
    return staged


@contextlib.contextmanager
def _said(repo: str, start: str) -> Iterator[None]:
    """Say what goes wrong with the hub in one sentence. An error of the disk keeps its own."""
    with quiet_log():
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # the hub client raises many kinds
            if type(error) in _NOT_OF_THE_HUB:
                raise
            raise UserError(f"{start}: {hub_sentence(error, repo)}") from None


@contextlib.contextmanager
def _bars(as_json: bool) -> Iterator[None]:
    """The client's progress bars on a terminal; none with `--json` or without one."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled() or (sys.stderr.isatty() and not as_json):
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="mlx-phi3v", library_version=__version__)
