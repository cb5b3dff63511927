"""Archives are read as the folder they hold; what would leave it, fill the disk or end too early is refused."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.ingest.photo_roots import PhotoRoots
from data.ingest.reading import archives, byte_streams
from data.ingest.sources import open_source
from mlx_phi3v.errors import UserError
from tests.helpers.misbehaving_server import photo_bytes
from tests.helpers.paths import ROOT

TABLE = b"title,price,image\nPot,5,pics/1.jpg\nPan,6,pics/2.jpg\n"
FILES = {"t.csv": TABLE, "pics/1.jpg": photo_bytes(1), "pics/2.jpg": photo_bytes(2), "notes.pdf": b"%PDF"}


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, files: dict[str, bytes], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            item = tarfile.TarInfo(name)
            item.size = len(data)
            archive.addfile(item, io.BytesIO(data))
    return path


MAKERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "t.zip": zipped,
    "t.tar": tarred,
    "t.tar.gz": lambda path, files: tarred(path, files, "w:gz"),
    "t.tar.bz2": lambda path, files: tarred(path, files, "w:bz2"),
    "t.tgz": lambda path, files: tarred(path, files, "w:gz"),
    "t.tar.xz": lambda path, files: tarred(path, files, "w:xz"),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("inside", ["", "shop/"])
def test_an_archive_is_read_as_its_folder(name: str, inside: str, tmp_path: Path) -> None:
    source = open_source(str(MAKERS[name](tmp_path / name, {inside + key: data for key, data in FILES.items()})))
    rows = list(source.rows())
    assert [row.values for row in rows] == [
        {"title": "Pot", "price": "5", "image": "pics/1.jpg"}, {"title": "Pan", "price": "6", "image": "pics/2.jpg"},
    ]  # fmt: skip
    assert Path(str(rows[0].root), "pics/1.jpg").read_bytes() == photo_bytes(1)
    assert rows[1].place.endswith("t.csv:3") and "mlx_phi3v" not in rows[1].place
    assert not Path(str(rows[0].root), "notes.pdf").exists()


def test_an_archive_of_photos_in_folders(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "photos.zip", {"hats\\a.jpg": photo_bytes(1), "bags/b.jpg": photo_bytes(2), "__MACOSX/._b.jpg": b"x"}
    )
    assert [row.values["category"] for row in open_source(str(path)).rows() if isinstance(row.values, dict)] == ["bags", "hats"]


@pytest.mark.parametrize("name", ["../x.csv", "/etc/x.csv", "a/../../x.csv", "C:\\x.csv", "..\\x.csv", "\\x.csv"])
@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_name_that_leads_out_is_refused(make: Callable[..., Path], name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="outside the archive"):
        open_source(str(make(tmp_path / "in" / "t.zip", {"ok.csv": TABLE, name: TABLE})))
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "t.zip"]


def test_links_and_devices_in_a_tar_are_not_made(tmp_path: Path) -> None:
    path = tarred(tmp_path / "t.tar", FILES)
    with tarfile.open(path, "a") as archive:
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "../../x"), (tarfile.FIFOTYPE, "")):
            item = tarfile.TarInfo(f"link{int(kind)}.csv")
            item.type, item.linkname = kind, target
            archive.addfile(item)
    root = next(open_source(str(path)).rows()).root
    assert sorted(os.listdir(str(root))) == ["pics", "t.csv"]


@pytest.mark.parametrize("name", ["t.zip", "t.tar.gz", "t.tar.xz", "t.tar.bz2"])
def test_a_bomb_is_refused_before_it_fills_the_disk(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 20)
    monkeypatch.setattr(archives, "MOST_RATIO", 100)
    path = MAKERS[name](tmp_path / name, {"t.csv": b"title\n" + b"\0" * (30 << 20)})
    with pytest.raises(UserError, match="unpacks to more than 100 times"):
        open_source(str(path))


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
def test_a_compressed_table_that_is_a_bomb_is_refused(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bz2
    import gzip
    import lzma

    import zstandard

    monkeypatch.setattr(byte_streams, "FREE_BYTES", 1 << 20)
    monkeypatch.setattr(byte_streams, "MOST_RATIO", 10)
    pack: dict[str, Callable[[bytes], bytes]] = {
        "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.ZstdCompressor().compress,
    }  # fmt: skip
    (tmp_path / f"t.csv.{suffix}").write_bytes(pack[suffix](b"title,price\n" + b"a,1\n" * (2 << 20)))
    with pytest.raises(UserError, match="unpacks to more than 10 times"):
        list(open_source(str(tmp_path / f"t.csv.{suffix}")).rows())


@pytest.mark.parametrize("name", MAKERS)
def test_a_cut_archive_is_one_sentence(name: str, tmp_path: Path) -> None:
    path = MAKERS[name](tmp_path / name, FILES | {"more.jpg": os.urandom(100_000)})
    whole = path.read_bytes()
    for length in (len(whole) // 2, len(whole) - 60_000, 300):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=name) as error:
            open_source(str(path))
        assert "\n" not in str(error.value)


def test_a_zip_with_a_password_is_one_sentence(tmp_path: Path) -> None:
    path = zipped(tmp_path / "t.zip", {"t.csv": TABLE})
    data = bytearray(path.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(header) + flags] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="unpack it and give its folder"):
        open_source(str(path))


def test_the_unpacked_folder_is_removed_at_the_end(tmp_path: Path) -> None:
    path = zipped(tmp_path / "t.zip", FILES)
    code = f"from data.ingest.sources import open_source; print(next(open_source({str(path)!r}).rows()).root)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() and not Path(done.stdout.strip()).exists()


SHARD = {
    "a/001.jpg": photo_bytes(1), "a/001.json": json.dumps({"title": "Pot", "price": {"amount": 5}}).encode(),
    "a/001.cls": b"3\n",
    "a/002.jpg": photo_bytes(2), "a/002.json": b"{", "a/002.cls": b"1",
    "a/003.txt": "größe".encode(), "a/003.png": photo_bytes(3),
}  # fmt: skip


def test_a_web_dataset_is_streamed_a_row_a_name(tmp_path: Path) -> None:
    source = open_source(str(tarred(tmp_path / "shop-000.tar", SHARD)))
    assert source.kind == "webdataset" and source.count == 3
    rows = [row.values for row in source.rows()]
    assert rows[0] == {"__key__": "a/001", "image": photo_bytes(1), "title": "Pot", "price": {"amount": 5}, "cls": "3"}
    assert rows[1] == "malformed_row"
    assert rows[2] == {"__key__": "a/003", "image": photo_bytes(3), "txt": "größe"}
    assert set(source.columns) == {"__key__", "image", "title", "price", "cls", "txt"}


def test_shards_of_a_web_dataset_are_one_source(tmp_path: Path) -> None:
    tarred(tmp_path / "train-000.tar", SHARD)
    tarred(tmp_path / "train-001.tar", SHARD)
    tarred(tmp_path / "test-000.tar", SHARD)
    source = open_source(str(tmp_path))
    assert source.count == 9 and [item.split for item in source.tables] == ["test", "train", "train"]


def test_a_table_in_an_archive_reads_no_photo_outside_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(photo_bytes(3))
    source = open_source(str(zipped(tmp_path / "t.zip", FILES)))
    root = Path(str(next(iter(source.rows())).root))
    (root / "link.jpg").symlink_to(secret)
    roots = PhotoRoots(root)
    assert roots.find("pics/1.jpg") == root / "pics" / "1.jpg" == roots.find(str(root / "pics" / "1.jpg"))
    for name in (str(secret), os.path.relpath(secret, root), "link.jpg"):
        assert roots.find(name) is None
        assert PhotoRoots(root, tmp_path).find(name) is not None  # --image-root allows it
    assert PhotoRoots(tmp_path / "shop").find(str(secret)) == secret  # a table of one's own


def test_a_member_whose_checksum_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    path = zipped(tmp_path / "t.zip", FILES)
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    data[central + 16] ^= 1  # the CRC in the central directory, which counts
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"t\.zip is no whole zip archive \(Bad CRC-32"):
        open_source(str(path))
