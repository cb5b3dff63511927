"""Which files of a folder are its weights: the index says it, or the published names."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from ..documents import inside, read_as, shown
from ..errors import UserError
from ..text import listed

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")


class IndexShape(msgspec.Struct):
    """`model.safetensors.index.json`."""

    weight_map: dict[str, str]


def weight_files(folder: Path) -> tuple[list[Path], dict[str, Path]]:
    """The weight files of a checkpoint folder, and the file of each tensor where the folder has an index.

    Other `.safetensors` (an adapter, an old copy, `consolidated.safetensors`) are not read. Raises UserError where there
    are none, where some are missing, where a name leads out of the folder, or where two sets of files could be meant.
    """
    index = folder / INDEX
    if index.exists():
        return _from_index(folder, index)
    shards = sorted(path for path in folder.glob("model-*.safetensors") if _SHARD.fullmatch(path.name))
    single = folder / SINGLE
    if single.exists():
        if shards:
            raise UserError(f"{folder} has {SINGLE} and {shards[0].name}, and no {INDEX}; remove the files that are old")
        return [single], {}
    if not shards:
        raise UserError(_none(folder))
    names = {path.name for path in shards}
    total = int(shards[0].name[-17:-12])
    whole = [f"model-{i:05d}-of-{total:05d}.safetensors" for i in range(1, min(total, 10_000) + 1)]
    if any(name not in whole for name in names):
        raise UserError(f"{folder} has shards of two checkpoints, and no {INDEX}; remove the files that are old")
    _require(folder, [name for name in whole if name not in names], "which its other shards count")
    return shards, {}


def _from_index(folder: Path, index: Path) -> tuple[list[Path], dict[str, Path]]:
    weight_map = read_as(index, "weight index", IndexShape).weight_map
    if not weight_map:
        raise UserError(f"{index} has an empty weight_map; download or convert the checkpoint again")
    paths = {}
    for name in set(weight_map.values()):
        paths[name] = inside(folder, name, index)
        if not name.endswith(".safetensors"):
            raise UserError(f"{index} names the file {shown(name)}; it must be a .safetensors file")
    _require(folder, [name for name, path in paths.items() if not path.is_file()], f"named in {index.name}")
    # transformers would read the single file, and leave the index alone.
    if SINGLE not in paths and (folder / SINGLE).exists():
        raise UserError(f"{folder} has {SINGLE}, and {INDEX} names other files; remove what is old of the two")
    return [paths[name] for name in sorted(paths)], {tensor: paths[name] for tensor, name in weight_map.items()}


def _require(folder: Path, missing: list[str], why: str) -> None:
    if missing:
        raise UserError(f"{folder} lacks {listed(sorted(missing), 5)}, {why}; download the missing shards")


def _none(folder: Path) -> str:
    other = sorted(path.name for path in folder.glob("*.safetensors") if path.name != "adapter_model.safetensors")
    if other:
        return f"{folder} is not a checkpoint: it has {shown(other[0])}, but no {SINGLE}; rename the file if it is the weights"
    pickled = sorted(path.name for path in folder.glob("*.bin")) + sorted(path.name for path in folder.glob("*.pt*"))
    if pickled:
        return (
            f"{folder} holds pickled weights ({shown(pickled[0])}), which can run code and are not read; load the model with "
            "transformers and save it again with save_pretrained, which writes safetensors"
        )
    return f"{folder} is not a checkpoint: it has no .safetensors file"
