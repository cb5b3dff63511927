"""The one exception that a user may see: a sentence that names the file, row or flag, and the fix."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from .commands import installed


class UserError(Exception):
    """A mistake in what the user gave: a file, a row or a flag. The message is all that is printed."""


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and exit with its status: what `python -m` and the installed command both call.

    A `UserError` prints as one line and exits 1; a full disk likewise; Ctrl-C exits 130.
    Anything else is a bug of ours and keeps its traceback.
    """
    if installed():  # sys.path has no current folder then, nor may that of its worker processes
        os.environ.setdefault("PYTHONSAFEPATH", "1")
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: cannot write{where}: {error.strerror}; free some space or choose another folder", file=sys.stderr)
        sys.exit(1)
    sys.exit(status or 0)
