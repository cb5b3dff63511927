"""Files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_phi3v.errors import UserError
from mlx_phi3v.files import (
    atomic_folder,
    atomic_path,
    folder_in_place,
    read_json,
    scratch_folder,
    sha256_bytes,
    sha256_file,
    sha256_json,
    write_json,
)


def test_a_file_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        assert json.loads(path.read_text()) == {"a": 1}
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_folder_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(RuntimeError), atomic_folder(path) as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("whole")
        assert not path.exists()
    assert (path / "a").read_text() == "whole" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_replaced_only_where_asked(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old").write_text("old")
    with pytest.raises(UserError, match="run exists and is not empty"), atomic_folder(tmp_path / "run"):
        pass
    with atomic_folder(tmp_path / "run", overwrite=True) as temporary:
        (temporary / "new").write_text("new")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["new"] and len(list(tmp_path.iterdir())) == 1


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="run is a file"), atomic_folder(tmp_path / "run"):
        pass


@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), ('{"a": ', "not valid JSON"), ("\xff", "not valid JSON")]
)
def test_malformed_json_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=f"the settings .*x.json.*{message}|the settings not found.*x.json {message}"):
        read_json(tmp_path / "x.json", "the settings")


@given(value=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=5))
def test_the_hash_of_json_does_not_depend_on_key_order(value: dict[str, int | str]) -> None:
    assert sha256_json(value) == sha256_json(dict(reversed(value.items())))
    assert sha256_json(value) != sha256_json({**value, "one more": 1})


def test_a_file_hashes_as_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    assert sha256_file(tmp_path / "a") == sha256_bytes(b"x" * 100_000)


def test_an_output_that_another_process_writes_is_refused_and_left_alone(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "run") as temporary:
        (temporary / "a").write_text("first")
        with pytest.raises(UserError, match=r"another process is writing .*run; wait"), atomic_folder(tmp_path / "run"):
            pass
    assert (tmp_path / "run" / "a").read_text() == "first"
    with atomic_path(tmp_path / "a.html") as temporary:
        temporary.write_text("first")
        with pytest.raises(UserError, match=r"another process is writing .*a.html"), atomic_path(tmp_path / "a.html"):
            pass
    assert (tmp_path / "a.html").read_text() == "first"


def test_several_processes_may_write_a_shared_file(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a", shared=True) as one, atomic_path(tmp_path / "a", shared=True) as two:
        one.write_text("same")
        two.write_text("same")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_said_of_the_output_and_not_of_a_temporary_file(tmp_path: Path, number: int) -> None:
    def fail(*name: object) -> None:
        raise OSError(number, os.strerror(number), *map(str, name))

    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "a.html"):
        fail()  # as a write does: it names nothing
    assert caught.value.filename == str(tmp_path / "a.html")
    with pytest.raises(OSError) as caught, atomic_folder(tmp_path / "run") as temporary:
        fail(temporary / "b" / "c.json")
    assert caught.value.filename == str(tmp_path / "run" / "b" / "c.json")
    with pytest.raises(OSError) as caught, atomic_folder(tmp_path / "run") as temporary:  # as shutil.copyfile does
        raise OSError(number, os.strerror(number), "/model/source.json", None, str(temporary / "copy.json"))
    assert caught.value.filename == str(tmp_path / "run" / "copy.json")
    with pytest.raises(OSError) as caught, folder_in_place(tmp_path / "here"):
        fail()
    assert caught.value.filename == str(tmp_path / "here")
    with pytest.raises(OSError) as caught, atomic_folder(tmp_path / "run"):
        fail("/other/file")
    assert caught.value.filename == "/other/file"
    with pytest.raises(OSError) as caught, atomic_folder(tmp_path / "run"):
        raise OSError(errno.EIO, "of a file that is read")
    assert caught.value.filename is None


def test_what_a_killed_process_left_goes_with_the_next_try(tmp_path: Path) -> None:
    script = "import os, sys; from mlx_phi3v.files import atomic_folder, atomic_path\n"
    script += "with atomic_path(sys.argv[1] + '/a.json') as a, atomic_folder(sys.argv[1] + '/run') as b:\n"
    script += "    a.write_text('half'); (b / 'half').write_text(''); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 2 and not (tmp_path / "run").exists()
    with atomic_folder(tmp_path / "run") as temporary:
        assert list(temporary.iterdir()) == []
    write_json(tmp_path / "a.json", 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "run"]


def test_only_temporary_files_of_ours_that_nobody_writes_are_swept(tmp_path: Path) -> None:
    kept = [".notes.tmp", ".a.deadbeef.tmp", "step-000001.tmp"]
    for name in (*kept, ".a.mlx_phi3v.tmp.json", ".a.mlx_phi3v-0a1b2c3d.tmp", ".run.mlx_phi3v.old"):
        (tmp_path / name).write_text("")
    with atomic_path(tmp_path / "live", shared=True) as live, folder_in_place(tmp_path):
        live.write_text("")
        assert {p.name for p in tmp_path.iterdir()} == {*kept, live.name}
        with pytest.raises(UserError, match="another process is writing"), folder_in_place(tmp_path):
            pass


def test_what_a_killed_process_left_in_the_temporary_folder_goes_with_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import os, sys; from mlx_phi3v.files import scratch_folder\n(scratch_folder() / 'a').write_text('')\n"
    for end, left in (("", 0), ("os.kill(os.getpid(), 9)", 1)):
        subprocess.run([sys.executable, "-c", script + end], check=False, env=os.environ | {"TMPDIR": str(tmp_path)})
        assert len(list(tmp_path.iterdir())) == left
    (tmp_path / "mlx_phi3v-notes").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    one, two = scratch_folder(), scratch_folder()  # neither takes the other for a leftover
    assert {path.name for path in tmp_path.iterdir()} == {one.name, two.name, "mlx_phi3v-notes"}


def test_a_folder_with_a_long_name_is_written(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / ("x" * 255)):
        pass
    write_json(tmp_path / ("y" * 250 + ".json"), 1)
    assert sorted(len(p.name) for p in tmp_path.iterdir()) == [255, 255]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_disk_that_takes_no_more_is_said_of_the_output(tmp_path: Path, number: int) -> None:
    with pytest.raises(OSError) as folder, atomic_folder(tmp_path / "run") as temporary, atomic_path(temporary / "a"):
        raise OSError(number, os.strerror(number))  # as a write says it: without a name
    assert folder.value.filename == str(tmp_path / "run" / "a")
    with pytest.raises(OSError) as file, atomic_path(tmp_path / "a.html"):
        raise OSError(number, os.strerror(number))
    assert file.value.filename == str(tmp_path / "a.html") and list(tmp_path.iterdir()) == []
