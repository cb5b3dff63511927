"""Folders and files of annotation tools become a row for each picture, with the names of what is in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from data.ingest.row import RowError
from data.ingest.sources import open_source
from mlx_phi3v.errors import UserError
from tests.helpers.misbehaving_server import photo_bytes


def put(folder: Path, **files: str | bytes) -> Path:
    """Files by their path, `__` for a folder and `_DOT_` for a dot; a photo where the content is empty."""
    for number, (name, content) in enumerate(files.items()):
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) and content else content or photo_bytes(number))
    return folder


def found(source: Path) -> list[tuple[Any, ...]]:
    """(picture's name, category, caption, split) of each row, the reason in place of a row that is refused."""
    rows: list[tuple[Any, ...]] = []
    for row in open_source(str(source)).rows():
        if isinstance(row.values, RowError):
            rows.append((str(row.values),))
            continue
        place = row.values.get("image") or row.values["file_name"]
        rows.append((Path(place).name, row.values.get("category"), row.values.get("caption"), row.split))
    return sorted(rows)


def voc(*names: str) -> str:
    objects = "".join(f"<object><name>{name}</name><part><name>sleeve</name></part></object>" for name in names)
    return f"<annotation><folder>x</folder><filename>a.jpg</filename>{objects}</annotation>"


def test_objects_of_pascal_voc_are_the_category(tmp_path: Path) -> None:
    put(tmp_path, JPEGImages__a_DOT_jpg="", JPEGImages__b_DOT_jpg="", Annotations__a_DOT_xml=voc("shirt", "hat", "shirt"))
    put(tmp_path, Annotations__b_DOT_xml=voc("shoe"), ImageSets__Main__train_DOT_txt="a\nb\n")
    assert found(tmp_path) == [("a.jpg", "shirt, hat", None, None), ("b.jpg", "shoe", None, None)]


def test_a_lone_annotation_beside_its_photo_is_no_feed(tmp_path: Path) -> None:
    put(tmp_path, train__a_DOT_jpg="", train__a_DOT_xml=voc("shirt"), valid__c_DOT_jpg="", valid__c_DOT_xml=voc("hat"))
    assert found(tmp_path) == [("a.jpg", "shirt", None, "train"), ("c.jpg", "hat", None, "validation")]


@pytest.mark.parametrize("form", ["{split}__{kind}__{name}", "{kind}__{split}__{name}"])
def test_classes_of_yolo_are_named_by_data_yaml(form: str, tmp_path: Path) -> None:
    for split, name, text in (
        ("train", "a", "0 .5 .5 .1 .1"),
        ("train", "b", "1 0.5 0.5 0.1 0.1\n0 0.1 0.1 0.1 0.1"),
        ("val", "a", "1 1 1 1 1"),
    ):
        put(tmp_path, **{form.format(split=split, kind="images", name=f"{name}_DOT_jpg"): photo_bytes(ord(name))})
        put(tmp_path, **{form.format(split=split, kind="labels", name=f"{name}_DOT_txt"): text})
    put(tmp_path, data_DOT_yaml="nc: 2\nnames: {0: shirt, 1: hat}\n")
    expected = [("a.jpg", "hat", None, "validation"), ("a.jpg", "shirt", None, "train"), ("b.jpg", "hat, shirt", None, "train")]
    assert found(tmp_path) == expected


def test_a_text_beside_a_photo_is_its_caption(tmp_path: Path) -> None:
    put(
        tmp_path,
        shirts__a_DOT_jpg="",
        shirts__a_DOT_txt="a blue shirt\n",
        shirts__b_DOT_jpg="",
        shirts__b_DOT_txt="a red\nshirt",
    )
    put(tmp_path, shirts__c_DOT_jpg="")
    assert found(tmp_path) == [
        ("a.jpg", "shirts", "a blue shirt", None),
        ("b.jpg", "shirts", "a red shirt", None),
        ("not_annotated",),
    ]


def test_a_few_texts_among_photos_are_none(tmp_path: Path) -> None:
    put(tmp_path, shirts__a_DOT_jpg="", hats__b_DOT_jpg="", hats__c_DOT_jpg="", shirts__a_DOT_txt="x", README_DOT_txt="hello")
    assert [row[1] for row in found(tmp_path)] == ["shirts", "hats", "hats"]


def test_files_of_labelme_are_pictures_with_labels(tmp_path: Path) -> None:
    for name, labels, flags in (("a", ["shirt", "hat"], {}), ("b", [], {"shoe": True, "bag": False})):
        shapes = [{"label": label, "points": [[1, 2], [3, 4]], "shape_type": "rectangle"} for label in labels]
        content = {"version": "5", "flags": flags, "shapes": shapes, "imagePath": f"..\\x\\{name}.jpg", "imageData": "aGk="}
        put(tmp_path, **{f"{name}_DOT_jpg": "", f"{name}_DOT_json": json.dumps(content)})
    assert found(tmp_path) == [("a.jpg", "shirt, hat", None, None), ("b.jpg", "shoe", None, None)]


def via_entry(name: str, *types: str) -> dict[str, Any]:
    regions = [{"shape_attributes": {"name": "rect", "x": 1}, "region_attributes": {"type": kind}} for kind in types]
    return {"filename": name, "size": 12, "regions": regions, "file_attributes": {"caption": f"photo {name}"}}


@pytest.mark.parametrize("project", [False, True])
def test_via_gives_its_regions_and_what_is_said_of_a_file(project: bool, tmp_path: Path) -> None:
    entries = {
        "a.jpg12": via_entry("a.jpg", "shirt", "hat", "shirt"),
        "b.jpg12": via_entry("b.jpg", "shoe"),
        "c.jpg12": via_entry("c.jpg"),
    }
    whole = {"_via_settings": {"ui": {}}, "_via_img_metadata": entries, "_via_image_id_list": list(entries)}
    put(tmp_path, via_DOT_json=json.dumps(whole if project else entries), **{f"{name}_DOT_jpg": "" for name in "abc"})
    expected = [
        ("a.jpg", "shirt, hat", "photo a.jpg", None),
        ("b.jpg", "shoe", "photo b.jpg", None),
        ("c.jpg", None, "photo c.jpg", None),
    ]
    assert found(tmp_path / "via.json") == expected


def test_cvat_gives_labels_and_attributes(tmp_path: Path) -> None:
    box = '<box label="shirt" xtl="1" ytl="1" xbr="9" ybr="9"><attribute name="price">19.99</attribute></box><tag label="new"/>'
    images = f'<image id="0" name="a.jpg" width="9" height="9">{box}</image><image id="1" name="b.jpg" width="9" height="9"/>'
    labels = "".join(f"<label><name>{n}</name><color>#f00</color><type>any</type></label>" for n in range(9))
    put(
        tmp_path,
        x_DOT_xml=f"<annotations><version>1.1</version><meta><task><labels>{labels}</labels></task></meta>{images}</annotations>",
        a_DOT_jpg="",
        b_DOT_jpg="",
    )
    assert found(tmp_path / "x.xml") == [("a.jpg", "shirt, new", None, None), ("not_annotated",)]
    row = next(iter(open_source(str(tmp_path / "x.xml")).rows()))
    assert not isinstance(row.values, RowError) and row.values["price"] == "19.99"


def coco(name: str) -> str:
    annotation = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 5, 5]}
    images = [{"id": 1, "file_name": name}]
    return json.dumps({"images": images, "annotations": [annotation], "categories": [{"id": 3, "name": f"kind {name}"}]})


def test_the_annotations_folder_of_coco_is_the_data_and_names_splits(tmp_path: Path) -> None:
    put(tmp_path, train2017__a_DOT_jpg="", val2017__b_DOT_jpg="", annotations__instances_train2017_DOT_json=coco("a.jpg"))
    put(tmp_path, annotations__instances_val2017_DOT_json=coco("b.jpg"))
    assert found(tmp_path) == [("a.jpg", "kind a.jpg", None, "train"), ("b.jpg", "kind b.jpg", None, "validation")]


def test_what_img2dataset_records_of_a_shard_is_no_table(tmp_path: Path) -> None:
    import io
    import tarfile

    with tarfile.open(tmp_path / "00000.tar", "w") as shard:
        for name, content in (
            ("0.jpg", photo_bytes(1)),
            ("0.txt", b"a blue shirt"),
            ("0.json", b'{"caption": "a blue shirt"}'),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    put(tmp_path, _00000_stats_DOT_json="{}")
    (tmp_path / "_00000_stats.json").rename(tmp_path / "00000_stats.json")
    (row,) = open_source(str(tmp_path)).rows()
    assert not isinstance(row.values, RowError) and row.values["caption"] == "a blue shirt"


@pytest.mark.parametrize("line", ["1" * 5000 + " 0.5 0.5 0.1 0.1", "99 0.5 0.5 0.1 0.1"])
def test_a_class_that_no_file_names_rejects_its_photo(line: str, tmp_path: Path) -> None:
    put(tmp_path, a_DOT_jpg="", a_DOT_txt="0 .5 .5 .1 .1", b_DOT_jpg="", b_DOT_txt=line, classes_DOT_txt="shirt\nhat\n")
    assert found(tmp_path) == [("a.jpg", "shirt", None, None), ("not_annotated",)]


def test_numbers_that_are_no_boxes_are_a_caption(tmp_path: Path) -> None:
    numbers = "0 " + "12345678 " * 40 + "x"  # each number could be cut at any digit: 8 ** 40 ways
    put(tmp_path, a_DOT_jpg="", a_DOT_txt=numbers)
    assert found(tmp_path) == [("a.jpg", None, numbers, None)]


def test_a_caption_is_read_in_its_encoding_and_refused_in_one_that_cannot_be_known(tmp_path: Path) -> None:
    put(tmp_path, a_DOT_jpg="", a_DOT_txt="größe".encode("utf-16"), b_DOT_jpg="", b_DOT_txt="größe".encode("utf-8-sig"))
    put(tmp_path, c_DOT_jpg="", c_DOT_txt=b"a\x81\xff\x90b", d_DOT_jpg="", d_DOT_txt="  \n")
    assert found(tmp_path) == [
        ("a.jpg", None, "größe", None), ("b.jpg", None, "größe", None), ("not_annotated",), ("text_not_utf8",),
    ]  # fmt: skip


def test_settings_of_other_tools_are_read_only_for_classes_and_never_from_a_pipe(tmp_path: Path) -> None:
    put(tmp_path, a_DOT_jpg="", a_DOT_txt="a blue shirt", compose_DOT_yaml="a: !ref b\n")
    os.mkfifo(tmp_path / "data.yaml")
    assert found(tmp_path) == [("a.jpg", None, "a blue shirt", None)]
    put(tmp_path, a_DOT_txt="0 .5 .5 .1 .1")
    with pytest.raises(UserError, match=r"compose\.yaml, line 1, key a"):
        found(tmp_path)
    put(tmp_path, compose_DOT_yaml="names: [shirt]\n")
    assert found(tmp_path) == [("a.jpg", "shirt", None, None)]


@pytest.mark.parametrize("files", [5, [1], "x", {"a": 5}])
def test_a_project_of_via_without_its_files_is_one_sentence(files: Any, tmp_path: Path) -> None:
    put(tmp_path, via_DOT_json=json.dumps({"_via_settings": {}, "_via_img_metadata": files, "_via_attributes": {}}))
    with pytest.raises(UserError):
        found(tmp_path / "via.json")
