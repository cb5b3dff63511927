"""A catalogue from anyone: what is not sound in it is one sentence that names the file, and nothing outside it is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from mlx_phi3v.catalogue import SIZES, Catalogue, iterate
from mlx_phi3v.errors import UserError
from tests.helpers.catalogue import write_catalogue

SHARD = "train-00000.arrow"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalogue(tmp_path_factory.mktemp("sound") / "shop", {"train": 8}, ((((60, 40)),), ((90, 60), (50, 50))))


@pytest.fixture
def shop(sound: Path, tmp_path: Path) -> Path:
    """A copy whose files may be changed; its photos are links to the sound one's folder within the copy."""
    folder = tmp_path / "shop"
    for path in sound.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(sound)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


def read_all(folder: Path) -> None:
    split = Catalogue(folder).split("train")
    rows = list(iterate(split))
    assert len(rows) == len(list(split.column("id"))) == len(split.to_pandas())
    assert sum(len(sizes.counts) for sizes in split.image_sizes()) == len(rows)


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_all(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message and "again" in message
    return message


def change_info(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    info = json.loads((folder / "catalogue.json").read_text())
    changed = change(info)
    (folder / "catalogue.json").write_text(json.dumps(info if changed is None else changed))


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    table = change(pa.ipc.open_stream((folder / SHARD).read_bytes()).read_all())
    with pa.ipc.new_stream(str(folder / SHARD), table.schema) as writer:
        writer.write_table(table)


def replace(table: pa.Table, name: str, column: Any) -> pa.Table:
    return table.set_column(table.schema.names.index(name), name, column)


WRONG: tuple[Any, ...] = (None, 5, -1, True, 1.5, "x", [], [1], ["x"], {}, {"x": 1}, {"x": "y"}, {"x": [None]}, [[{}]])


@pytest.mark.parametrize("key", ["task", "splits", "fingerprint", "name", "counts", "products"])
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_part_of_another_form_is_a_sentence_or_harmless(shop: Path, key: str, value: Any) -> None:
    change_info(shop, lambda info: info.update({key: value}))
    try:
        read_all(shop)
    except UserError as error:
        assert "\n" not in str(error) and str(shop) in str(error)
        return
    assert key in ("name", "counts", "products", "fingerprint") or value == {}  # an empty task is the published one


@pytest.mark.parametrize("value", [None, [], 5, "x", [1]], ids=repr)
def test_a_catalogue_file_that_holds_no_object_is_named(shop: Path, value: Any) -> None:
    change_info(shop, lambda _: value if value is not None else [])
    assert "catalogue.json" in refused(shop)


@pytest.mark.parametrize("name", ["a\x1b]0;x\x07b", "a\nb", "\x00", "[/x]", "../a", "x" * 300])
def test_a_name_that_no_folder_may_have_is_refused(shop: Path, name: str) -> None:
    change_info(shop, lambda info: info.update(name=name))
    refused(shop)


def test_half_a_surrogate_pair_is_refused(shop: Path) -> None:
    change_info(shop, lambda info: info.update(name="\ud800"))
    with pytest.raises(UserError, match=r"catalogue\.json: name is .* without half a surrogate pair"):
        Catalogue(shop)


@pytest.mark.parametrize(
    "changed",
    [{"format": True}, {"format": 1.0}, {"splits": {}}, {"source": [1]}, {"settings": 5}, {"settings": None}],
    ids=repr,
)
def test_a_part_that_is_taken_for_another_is_refused(shop: Path, changed: dict[str, Any]) -> None:
    change_info(shop, lambda info: info.update(changed))
    refused(shop)


@pytest.mark.parametrize("changed", [{"name": "a\x1b", "kind": "text"}, {"name": "title", "kind": "text", "currency": "\x1b"}])
def test_a_field_with_control_characters_is_refused(shop: Path, changed: dict[str, Any]) -> None:
    change_info(shop, lambda info: info["task"].update(fields=[changed], template="T: {" + changed["name"] + "}"))
    with pytest.raises(UserError, match=r"catalogue\.json: .*field"):
        Catalogue(shop)


@pytest.mark.parametrize("key", ["prompt", "template", "fields"])
@pytest.mark.parametrize("value", [5, ["x"], {"a": 1}, [{"kind": "text"}], [{"name": 5, "kind": "text"}], [None]], ids=repr)
def test_a_task_of_another_form_is_named_with_its_file(shop: Path, key: str, value: Any) -> None:
    change_info(shop, lambda info: info["task"].update({key: value}))
    with pytest.raises(UserError, match=r"task|template"):
        Catalogue(shop)


@pytest.mark.parametrize("template", ["", "{", "}", "{title!r}", "{title:>5}", "{}", "{title.x}", "{title[0]}", "{title"])
def test_a_template_with_other_braces_is_refused(shop: Path, template: str) -> None:
    change_info(shop, lambda info: info["task"].update(template=template))
    with pytest.raises(UserError, match="template"):
        Catalogue(shop)


@pytest.mark.parametrize("rows", [7, 9, 500, -1, 2**70, "8", None, True, 1.5], ids=repr)
def test_a_number_of_rows_that_the_shards_do_not_hold_is_refused(shop: Path, rows: Any) -> None:
    change_info(shop, lambda info: info["splits"]["train"].update(rows=rows))
    refused(shop)


@pytest.mark.parametrize(
    "shard", ["../other.arrow", "/etc/passwd", "a/../../b", "", "a\0b", "C:x", "a\\b", "missing", "images", 5]
)
def test_a_shard_outside_the_folder_or_none_is_refused(shop: Path, shard: Any) -> None:
    change_info(shop, lambda info: info["splits"]["train"].update(shards=[shard]))
    refused(shop)


def test_a_shard_that_is_a_link_out_a_pipe_or_of_another_catalogue_is_refused(shop: Path, sound: Path) -> None:
    whole = (shop / SHARD).read_bytes()
    (shop / SHARD).unlink()
    (shop / SHARD).symlink_to(sound / SHARD)
    assert "link" in refused(shop)
    (shop / SHARD).unlink()
    os.mkfifo(shop / SHARD)
    refused(shop)
    (shop / SHARD).unlink()
    (shop / SHARD).write_bytes(whole)
    rewrite(shop, lambda table: table.drop_columns(["images"]))
    assert "no columns 'images'" in refused(shop)
    rewrite(shop, lambda table: table.append_column("images", pa.array(["x"] * len(table))))
    refused(shop)


PHOTOS = (
    None,
    "",
    "a\0b",
    "/etc/hostname",
    "../x.png",
    "images/../../x.png",
    "..",
    "C:\\x.png",
    "images\\x.png",
    "\\\\host\\x",
)


@pytest.mark.parametrize("photo", PHOTOS, ids=repr)
def test_a_photo_outside_the_catalogue_or_none_is_refused_with_its_row(shop: Path, photo: str | None) -> None:
    images = [["images/a.png"]] * 5 + [[], [photo], ["images/b.png"]]
    rewrite(shop, lambda table: replace(table, "images", pa.array(images, pa.list_(pa.string()))).drop_columns([SIZES]))
    assert "train-6" in refused(shop)


def test_a_photo_that_is_a_link_out_of_the_catalogue_is_refused(shop: Path, tmp_path: Path) -> None:
    photo = next(path for path in (shop / "images").rglob("*.png"))
    photo.rename(tmp_path / "elsewhere.png")
    photo.symlink_to(tmp_path / "elsewhere.png")
    assert "link" in refused(shop)
    photo.unlink()
    (shop / "images" / "real.png").write_bytes((tmp_path / "elsewhere.png").read_bytes())
    photo.symlink_to("../real.png")
    read_all(shop)


def test_a_catalogue_reached_by_a_link_is_read(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(shop)
    read_all(tmp_path / "link")


@pytest.mark.parametrize("price", [float("inf"), float("-inf")])
def test_an_infinite_price_is_refused_and_a_missing_one_is_not(shop: Path, price: float) -> None:
    rewrite(shop, lambda table: replace(table, "full_price", pa.array([None, float("nan"), *[1.0] * 5, 2.0])))
    read_all(shop)
    rewrite(shop, lambda table: replace(table, "full_price", pa.array([1.0] * 7 + [price])))
    assert "train-7" in refused(shop) and "full_price" in refused(shop)


@pytest.mark.parametrize("sides", [[], [(5, 5)] * 9, [(-1, 5)], [(2**31 - 1, 2**31 - 1)]], ids=repr)
def test_sizes_that_are_not_those_of_the_photos_are_refused(shop: Path, sides: list[tuple[int, int]]) -> None:
    def change(table: pa.Table) -> pa.Table:
        stored = table.column(SIZES).to_pylist()
        stored[0] = [{"width": width, "height": height} for width, height in sides]
        return replace(table, SIZES, pa.array(stored, table.schema.field(SIZES).type))

    rewrite(shop, change)
    refused(shop)


def test_a_name_within_a_column_that_is_not_unicode_is_refused(shop: Path) -> None:
    data = (shop / SHARD).read_bytes()
    assert data.count(b"width") >= 1
    (shop / SHARD).write_bytes(data.replace(b"width", b"wid\xffh"))
    assert SHARD in refused(shop)


def test_a_date_that_python_cannot_hold_is_refused_with_its_shard(shop: Path) -> None:
    dates = pa.array([10**12] * 8, pa.timestamp("s"))
    rewrite(shop, lambda table: table.append_column("at", dates))
    assert SHARD in refused(shop)


def test_a_column_that_is_there_twice_is_refused(shop: Path) -> None:
    rewrite(shop, lambda table: table.append_column("extra", table["id"]).append_column("extra", table["id"]))
    assert "has 2 columns 'extra'" in refused(shop)


def test_a_shard_cut_anywhere_is_refused(shop: Path) -> None:
    whole = (shop / SHARD).read_bytes()
    last = len(whole) - 8  # the stream's end mark, which a reader does not need
    for end in [*range(0, last, 97), last - 1]:
        (shop / SHARD).write_bytes(whole[:end])
        refused(shop)


def test_a_shard_with_flipped_bits_is_read_or_refused_and_never_ends_the_process(shop: Path) -> None:
    whole, random = (shop / SHARD).read_bytes(), Random(0)
    outcomes = set()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(random.choice((1, 1, 3))):
            place = random.randrange(len(data))
            data[place] = random.choice((data[place] ^ (1 << random.randrange(8)), 0, 127, 128, 255))
        (shop / SHARD).unlink()  # a mapped file must not change under its map
        (shop / SHARD).write_bytes(data)
        try:
            read_all(shop)
            outcomes.add("read")
        except UserError as error:
            assert str(shop) in str(error)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
