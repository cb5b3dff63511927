"""The end of every command: one line, the right status, and for a fault of ours the file of its traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_phi3v.errors import shown
from mlx_phi3v.system_errors import os_sentence
from tests.helpers.paths import ROOT

RUN = """
import errno, os, sys
from mlx_phi3v.errors import UserError, run_cli
def main():
    {body}
run_cli(main)
"""


def run(body: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    code = RUN.format(body=body.replace("\n", "\n    "))
    env = os.environ | {"TMPDIR": str(folder)} | environment
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{}['x']", "KeyError: 'x'"),
        ("raise RuntimeError('two\\nlines \\x1b[31m')", "RuntimeError: two lines \\x1b[31m"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion"),
        ("b'\\xff'.decode()", "UnicodeDecodeError"),
        ("raise OSError('no path and no number')", "OSError: no path"),
        ("raise ValueError('x' * 10000)", "ValueError: xxx"),
        ("import asyncio\nraise asyncio.CancelledError", "CancelledError"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise ExceptionGroup('several', [KeyError(1)])", "ExceptionGroup: several"),
    ],
)
def test_an_unforeseen_exception_is_a_fault_of_ours(body: str, said: str, tmp_path: Path) -> None:
    done = run(body, tmp_path)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 70 and done.stdout == "" and len(line) < 700
    assert line.startswith("error: this is a fault of mlx-phi3v, not of yours: ") and said in line
    assert line.endswith("; please report it with the command")
    (file,) = tmp_path.iterdir()
    assert str(file) in line and "Traceback (most recent call last)" in file.read_text()


@pytest.mark.parametrize(
    "error",
    ["MemoryError", "RuntimeError('[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum')",
     "RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')",
     "RuntimeError(\"DefaultCPUAllocator: can't allocate memory\")"],
)  # fmt: skip
def test_full_memory_is_a_sentence_with_the_mend(error: str, tmp_path: Path) -> None:
    done = run(f"raise {error}", tmp_path)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())
    assert done.stderr.startswith("error: there is not enough memory; end other programs, or lower --batch-size")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_take_no_output_of_ours(closed: str, tmp_path: Path) -> None:
    """Without, the first file that is opened would be number 1, and what is printed would go into it."""
    out = tmp_path / "out"
    code = RUN.format(
        body=f"with open({str(out)!r}, 'w') as file:\n        print('hello', flush=True)\n        os.write(2, b'hi')"
    )
    done = subprocess.run(["sh", "-c", f'exec {closed}; exec "$@"', "sh", sys.executable, "-c", code], cwd=ROOT, timeout=300)
    assert done.returncode == 0 and out.read_bytes() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="a folder that is in use stays there")
def test_a_current_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    done = run(f"os.chdir({str(tmp_path / 'gone')!r})\nos.rmdir(os.getcwd())\nos.getcwd()", tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: the current folder is gone; change to another one (cd)\n")


def test_the_traceback_is_shown_too_where_it_is_asked_for(tmp_path: Path) -> None:
    done = run("{}['x']", tmp_path, MLX_PHI3V_DEBUG="1")
    assert done.returncode == 70 and "Traceback (most recent call last)" in done.stderr and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        ("return 3", 3, ""),
        ("return None", 0, ""),
        ("raise SystemExit(5)", 5, ""),
        ("raise UserError('file x is wrong; mend it')", 1, "error: file x is wrong; mend it\n"),
        ("raise UserError('id \\x1b[2J\\u202egpj.exe\\nx')", 1, "error: id \\x1b[2J\\u202egpj.exe x\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("os.kill(os.getpid(), 15)", 143, "interrupted\n"),
        ("os.kill(os.getpid(), 1)", 129, "interrupted\n"),
        # A signal inside what takes every exception for its own, or turns it into another.
        ("try: os.kill(os.getpid(), 15)\nexcept BaseException: raise ImportError('numpy')", 143, "interrupted\n"),
        ("raise BrokenPipeError", 141, ""),
        ("open('/')", 1, "error: /: Is a directory; it is a folder; give a file\n"),
        ("open('/nowhere/x')", 1, "error: /nowhere/x: No such file or directory; it does not exist; check the path\n"),
        (
            "open('a\\udcff', 'w', encoding='utf-8').write('\\ud800')\nos.unlink('a\\udcff')",
            1,
            "error: a name or text is not Unicode",
        ),
    ],
)
def test_every_other_end_is_one_line(body: str, status: int, line: str, tmp_path: Path) -> None:
    done = run(f"os.chdir({str(tmp_path)!r})\n{body}", tmp_path)
    assert done.returncode == status and done.stderr.startswith(line) and len(done.stderr.splitlines()) == bool(line)
    assert not list(tmp_path.glob("mlx_phi3v-*"))


def sentence(number: int, path: object = None) -> str | None:
    return os_sentence(OSError(number, os.strerror(number), path))


def test_what_the_system_says_names_the_path_and_the_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for number, mend in [
        (errno.ENOSPC, "cannot write .*: No space left on device; free some space"),
        (errno.EDQUOT, "cannot write .*free some space"),
        (errno.EFBIG, "cannot write .*ulimit -f"),
        (errno.EROFS, "cannot write .*Read-only file system; choose another folder"),
        (errno.EPERM, "cannot write .*Operation not permitted; choose another folder"),
        (errno.EACCES, "cannot write .*Permission denied; choose another folder"),
        (errno.EISDIR, "it is a folder; give a file"),
        (errno.ELOOP, "symbolic links run in a circle"),
        (errno.EIO, "the disk has a fault"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EBUSY, "in use or a mount point"),
    ]:
        found = sentence(number, str(tmp_path / "x"))
        assert found and (str(tmp_path / "x") in found or number == errno.EMFILE)
        import re

        assert re.search(mend, found), found
    below = sentence(errno.ENOTDIR, str(tmp_path / "file" / "a" / "b"))
    assert (
        below
        == f"{tmp_path / 'file' / 'a' / 'b'}: {tmp_path / 'file'} is a file, and a folder is needed there; give another path"
    )
    assert (
        sentence(errno.EEXIST, tmp_path / "file")
        == f"{tmp_path / 'file'} is a file, and a folder is needed there; give another path"
    )
    long = sentence(errno.ENAMETOOLONG, "x" * 5000)
    assert long and "(5,000 letters)" in long and len(long) < 200
    assert sentence(errno.ECONNRESET) is None and sentence(errno.EINVAL) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_not_said_to_be_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0)
    assert "cannot read" in str(sentence(errno.EACCES, tmp_path / "file"))


def test_reading_and_writing_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("mlx_phi3v.system_errors.os.access", lambda path, mode: False)
    found = sentence(errno.EACCES, tmp_path / "file")
    assert found == f"cannot read {tmp_path / 'file'}: Permission denied; get the right to read it (chmod u+r)"
    assert "cannot reach" in str(sentence(errno.EACCES, tmp_path / "none"))


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_a_terminal_that_lacks_a_letter_gets_its_number(environment: dict[str, str], tmp_path: Path) -> None:
    body = "print('H\\u65e5\\U0001f600 \\udcff')\nsys.stderr.write('\\u65e5\\n')"
    done = run(body, tmp_path, **environment)
    assert done.returncode == 0 and done.stdout == "H\\u65e5\\ud83d\\ude00 \\udcff\n" and done.stderr == "\\u65e5\n"


def test_control_letters_are_written_out() -> None:
    assert shown("a\tb\nc") == "a b c" and shown("é日😀") == "é日😀"
    assert shown("\x1b[31m\u202e\u200b\x00\udcff") == "\\x1b[31m\\u202e\\u200b\\x00\\udcff"
