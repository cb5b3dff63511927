"""What `convert` and `fuse` do around a model folder that they make: its receipt, the card with the verdict, the upload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .hub.upload import then_upload
from .progress import result, say
from .receipt import Request


def make_folder(
    make: Callable[[], dict[str, Any]],
    request: Request,
    size: Callable[[dict[str, Any]], str],
    *,
    upload_repo: str | None,
    public: bool,
    as_json: bool,
) -> None:
    """Make the folder `request.after` and all that belongs to it, and say so.

    make: writes the folder; its summary, with "already" where it was there before. size: what is said of a new one. Raises
    UserError, see `Request.make` and `then_upload`.
    """
    with then_upload(upload_repo, request.after, public=public, as_json=as_json):
        summary = make()
        summary["receipt"] = request.make(as_json=as_json, again=bool(summary.get("already")))
        if summary["receipt"]:
            from .hub.card import write_card  # --help and a wrong flag need none of it

            write_card(request.after)  # with the verdict
        result(as_json, event="done", **summary)
        if not summary.get("already"):
            say(f"wrote {summary['path']}: {size(summary)}", as_json=as_json)
