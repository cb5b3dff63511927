"""Data sets of the hub and saved `datasets` folders."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlx_phi3v.errors import UserError

from .arrow_tables import DatasetTable, image_columns, label_names, labelled_columns, named
from .hub_options import HubOptions
from .row import Row
from .source_tables import SPLIT_NAMES, SourceTable

_MOST_PHOTO_BYTES = 256_000_000
_PHOTOS = (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")


def dataset_tables(
    loaded: Any, split: str | None, root: Path | None, place: str, own_photo: Callable[[str], bytes | None] | None = None
) -> Iterator[SourceTable]:
    """The splits of what `datasets` loaded."""
    if isinstance(loaded, dict):
        for name, dataset in loaded.items():
            yield SourceTable(_table(dataset, own_photo), SPLIT_NAMES.get(name.lower(), name), root, f"{place}/{name}")
    else:
        yield SourceTable(_table(loaded, own_photo), split, root, place)


def _table(dataset: Any, own_photo: Callable[[str], bytes | None] | None) -> DatasetTable | StreamedTable:
    return DatasetTable(dataset, own_photo) if hasattr(dataset, "__len__") else StreamedTable(dataset)


class StreamedTable:
    """One split of a `datasets.IterableDataset`: read as it comes, and again for each pass over the rows."""

    kind = "datasets"

    def __init__(self, dataset: Any) -> None:
        import datasets

        features = dataset.features
        if features is None:
            dataset = dataset._resolve_features()
            features = dataset.features
        for column in image_columns(features):
            dataset = dataset.cast_column(column, _undecoded(features[column], datasets.Image(decode=False)))
        self.dataset = dataset
        schema = features.arrow_schema
        self.labels = label_names(schema)
        self.columns = labelled_columns(schema, self.labels)
        splits = dataset.info.splits or {}
        known = splits.get(str(dataset.split)) if dataset.split is not None else None
        self.count = known.num_examples if known is not None else 0

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each row with its number, from 1."""
        rows = iter(self.dataset)
        for number in itertools.count(1):
            try:
                row = next(rows)
            except StopIteration:
                return
            except Exception as error:  # as in `load_hub`
                raise UserError(f"row {number} of the data set cannot be read ({_short(error)}); check the network") from None
            yield (
                number,
                {name: named(value, self.labels[name]) if name in self.labels else value for name, value in row.items()},
            )


def _undecoded(feature: Any, image: Any) -> Any:
    if isinstance(feature, list):
        return [image]
    return image if type(feature).__name__ == "Image" else type(feature)(image)


def saved_dataset(folder: Path, split: str | None, place: str) -> Iterator[SourceTable]:
    """The splits of a folder that `save_to_disk` wrote. Raises UserError where it cannot be read."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # of a file that it did not write, datasets raises nearly anything
        raise UserError(f"{folder} cannot be read as a saved dataset ({_short(error)}); save it again") from None
    yield from dataset_tables(loaded, split, folder.resolve(), place)


def load_hub(name: str, options: HubOptions) -> tuple[list[SourceTable], list[Any]]:
    """(the splits of a data set of the hub, what changes when its data does). Raises UserError where it cannot be had."""
    import datasets

    try:
        loaded = datasets.load_dataset(name, **options.given())
    except Exception as error:  # the network, the hub and each builder raise errors of their own
        raise UserError(
            f"{name} is neither a local path nor on the hub ({_short(error)}); check the name, the network and HF_TOKEN"
        ) from None
    each = list(loaded.values()) if isinstance(loaded, dict) else [loaded]
    own = None if options.streaming else FetchedPhotos(name, each)
    stamps = [getattr(dataset, "_fingerprint", None) or [name, options.given()] for dataset in each]
    return list(dataset_tables(loaded, None, None, name, own)), stamps


class FetchedPhotos:
    """The photo files that `datasets` itself has fetched: in the cache of this data set, or all of a folder it was made of.

    A data set may name any file of this machine as its photo; no other is read.
    """

    def __init__(self, name: str, loaded: list[Any]) -> None:
        self._roots = [root.resolve() for root in _cache_folders(name) if root.is_dir()]
        self._roots += [root for dataset in loaded if (root := _folder_it_was_made_of(dataset)) is not None]

    def __call__(self, path: str) -> bytes | None:
        """The bytes of a photo, or None where the data set did not fetch it."""
        try:
            real = Path(path).resolve()
            if not any(real.is_relative_to(root) for root in self._roots) or not real.is_file():
                return None
            with open(real, "rb") as file:
                return file.read(_MOST_PHOTO_BYTES)
        except (OSError, ValueError, RuntimeError):
            return None


def _cache_folders(name: str) -> Iterator[Path]:
    """Where `datasets` keeps the files of one data set of the hub, and what it unpacks; not the whole cache."""
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    yield Path(HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    yield Path(datasets.config.DOWNLOADED_DATASETS_PATH)
    yield Path(datasets.config.EXTRACTED_DATASETS_PATH)


def _folder_it_was_made_of(dataset: Any) -> Path | None:
    """The folder that `imagefolder` was given, known by this: each label is its photo's folder, and no photo there lacks.

    So no data set can name a file that it does not consist of.
    """
    if getattr(dataset.info, "builder_name", None) != "imagefolder" or set(dataset.features) != {"image", "label"}:
        return None
    table = DatasetTable(dataset)
    paths = set()
    for _, row in table.rows():
        if not isinstance(row, Mapping):
            return None
        photo = row["image"]
        path = photo.get("path") if isinstance(photo, Mapping) and photo.get("bytes") is None else None
        if not isinstance(path, str) or not os.path.isabs(path) or Path(path).parent.name != row["label"]:
            return None
        paths.add(path)
    if not paths:
        return None
    root = Path(os.path.commonpath({os.path.dirname(os.path.dirname(path)) for path in paths}))
    there = (Path(parent, name) for parent, _, names in os.walk(root) for name in names)
    photos = (str(path) for path in there if path.suffix.lower() in _PHOTOS)
    complete = {path for path in itertools.islice(photos, len(paths) + 1)} == paths
    return root.resolve() if complete else None


def _short(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
