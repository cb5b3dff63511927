"""The published Python code comes from the base's folder, else from the hub at the base's revision, else is asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mlx_phi3v.convert import ConvertConfig, convert
from mlx_phi3v.files import sha256_bytes
from mlx_phi3v.hf_folder.code import Code, add_code, snapshot_of
from mlx_phi3v.hf_folder.published import CONFIG_MAP, PHI3, PHI35, local_map, modules_of

pytest.importorskip("mlx.core")
REVISION = "0123456789abcdef0123456789abcdef01234567"
TEXTS = {
    "configuration_phi3_v.py": "x = 1\n",
    "modeling_phi3_v.py": "from .configuration_phi3_v import x\nfrom .image_embedding_phi3_v import y\n",
    "image_embedding_phi3_v.py": "y = 2\n",
    "processing_phi3_v.py": "if True:\n    from .image_processing_phi3_v import z\n",
    "image_processing_phi3_v.py": "z = 3\n",
}


class Hub:
    """Stands in for huggingface_hub.hf_hub_download: `files` of one repository at one revision."""

    def __init__(self, folder: Path, repo: str) -> None:
        self.folder = folder / f"models--{repo.replace('/', '--')}" / "snapshots" / REVISION
        self.folder.mkdir(parents=True)
        for name, text in TEXTS.items():
            (self.folder / name).write_text(text)
        self.repo, self.asked = repo, list[tuple[str, str, str | None]]()

    def __call__(self, repo: str, name: str, *, revision: str | None = None) -> str:
        self.asked.append((repo, name, revision))
        if repo != self.repo or not (self.folder / name).exists() or revision not in (None, REVISION):
            raise ConnectionError("no network")
        return str(self.folder / name)


def source_with(checkpoint: Path, folder: Path, **config: object) -> Path:
    shutil.copytree(checkpoint, folder)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | config))
    return folder


def test_the_code_beside_the_base_is_copied_with_what_it_imports(checkpoint: Path, tmp_path: Path) -> None:
    source = source_with(checkpoint, tmp_path / "source")
    for name, text in TEXTS.items():
        (source / name).write_text(text)
    (source / "other.py").write_text("not the model's")
    convert(ConvertConfig(str(source), tmp_path / "out", to_hf=True))
    assert {path.name for path in (tmp_path / "out").glob("*.py")} == TEXTS.keys()
    readme = (tmp_path / "out" / "README.md").read_text()
    for name, text in TEXTS.items():
        assert (tmp_path / "out" / name).read_text() == text and f"{sha256_bytes(text.encode())}  {name}" in readme


def test_the_code_is_fetched_at_the_revision_of_the_base(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = Hub(tmp_path / "cache", "owner/phi3v")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    weights = tmp_path / "weights" / "models--owner--phi3v" / "snapshots" / REVISION
    weights.parent.mkdir(parents=True)
    source_with(checkpoint, weights, auto_map=CONFIG_MAP)
    convert(ConvertConfig(str(weights), tmp_path / "direct", to_hf=True))
    assert {path.name for path in (tmp_path / "direct").glob("*.py")} == TEXTS.keys()
    assert {(repo, revision) for repo, _, revision in hub.asked} == {("owner/phi3v", REVISION)}
    assert f"copied from owner/phi3v at {REVISION}" in (tmp_path / "direct" / "README.md").read_text()
    assert "the code that transformers runs" not in capsys.readouterr().err


def test_a_folder_of_ours_remembers_the_revision(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path / "cache", "owner/phi3v")
    shutil.copytree(checkpoint, hub.folder, dirs_exist_ok=True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(hub.folder))
    convert(ConvertConfig("owner/phi3v", tmp_path / "mlx"))
    assert json.loads((tmp_path / "mlx" / "conversion.json").read_text())["source_revision"] == REVISION
    convert(ConvertConfig(str(tmp_path / "mlx"), tmp_path / "hf", to_hf=True))
    assert (hub.asked[0][0], hub.asked[0][2]) == ("owner/phi3v", REVISION)
    assert (tmp_path / "hf" / "modeling_phi3_v.py").read_text() == TEXTS["modeling_phi3_v.py"]


def test_without_code_and_network_one_line_says_what_to_copy(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", Hub(tmp_path / "cache", "nobody/nothing"))
    source = source_with(checkpoint, tmp_path / "source", _name_or_path="Phi-3-vision-128k-instruct")
    convert(ConvertConfig(str(source), tmp_path / "out", to_hf=True))
    [line] = [line for line in capsys.readouterr().err.splitlines() if "the code" in line and "copy" in line]
    for name in PHI3.files:
        assert name in line
    assert "https://huggingface.co/microsoft/Phi-3-vision-128k-instruct" in line
    assert not list((tmp_path / "out").glob("*.py")) and "The code is missing" in (tmp_path / "out" / "README.md").read_text()


def test_half_of_the_code_is_none(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "modeling_phi3_v.py").write_text("from .missing import x\n")
    assert add_code(tmp_path, ["modeling_phi3_v"], tmp_path / "base", []) == Code({}, "there is none")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_link_out_of_the_base_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "secret").write_text("x = 1")
    (tmp_path / "base" / "modeling_phi3_v.py").symlink_to(tmp_path / "secret")
    assert not add_code(tmp_path, ["modeling_phi3_v"], tmp_path / "base", []).files
    assert not (tmp_path / "modeling_phi3_v.py").exists()


def test_an_auto_map_names_modules_of_the_folder_only() -> None:
    hostile = {"AutoModel": "../../x.Y", "AutoConfig": 3, "AutoTokenizer": [None, "tok_fast.Fast"], "AutoX": "a/b--mine.Z"}
    classes, repositories = local_map(hostile, CONFIG_MAP)
    assert classes == CONFIG_MAP | {"AutoTokenizer": [None, "tok_fast.Fast"], "AutoX": "mine.Z"}
    assert repositories == ["a/b"] and modules_of(classes) == ["configuration_phi3_v", "mine", "modeling_phi3_v", "tok_fast"]
    assert local_map("nonsense", PHI35.processor_map) == (PHI35.processor_map, [])


def test_a_snapshot_is_known_by_its_place() -> None:
    assert snapshot_of(Path(f"/c/models--a--b/snapshots/{REVISION}")) == ("a/b", REVISION)
    assert snapshot_of(Path("/c/models--a--b/snapshots/main")) is None
