"""Published weights become a bundle by one command, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import fsspec
import huggingface_hub.constants
import pytest
from safetensors import SafetensorError

import models.published_files
from models.weights import Bundle, WeightsError
from pipeline.base.errors import ConfigError
from pipeline.import_weights import ImportConfig, import_weights
from pipeline.storage.copies import local_copy
from tests.models.golden import FOLDER

TINY = FOLDER / "tiny_checkpoints"


def config(tmp_path, **changes) -> ImportConfig:
    values = {
        "base": str(TINY / "unidiffuser"),
        "joint": str(TINY / "jodiffusion_unet"),
        "annotation_vae": str(TINY / "jodiffusion_label_vae"),
        "label_space": "voc",
        "bundle": str(tmp_path / "bundle"),
    }
    return ImportConfig(**{**values, **changes})


def test_checkpoints_become_a_bundle_with_a_card(tmp_path):
    folder = Path(import_weights(config(tmp_path)))
    bundle = Bundle.load(folder)
    assert bundle.image_size_px == 64
    assert bundle.diffusion.objective == "epsilon" and bundle.diffusion.text_noise == "independent"
    card = (folder / "README.md").read_text()
    assert bundle.digest in card and "AGPL-3.0" in card and "`jodiffusion_unet`" in card and str(TINY) not in card
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"], "no draft is left"


def test_a_bundle_may_come_from_a_store_and_go_there(tmp_path, monkeypatch):
    monkeypatch.setenv("JODIFFUSION_CACHE", str(tmp_path / "cache"))
    there = fsspec.filesystem("memory")
    there.put(str(TINY / "jodiffusion_label_vae"), "/import/vae", recursive=True)
    changes = {"annotation_vae": "memory://import/vae", "bundle": "memory://import/bundle"}

    assert import_weights(config(tmp_path, **changes)) == "memory://import/bundle"

    expected = Bundle.load(import_weights(config(tmp_path)))
    assert Bundle.load(local_copy("memory://import/bundle")).digest == expected.digest
    assert "`vae`" in there.cat_file("/import/bundle/README.md").decode()
    with pytest.raises(ConfigError, match="is there already"):
        import_weights(config(tmp_path, **changes))


def test_a_folder_that_is_there_is_never_touched(tmp_path):
    (tmp_path / "bundle").mkdir()
    with pytest.raises(ConfigError, match="is there already"):
        import_weights(config(tmp_path))


def test_a_failed_import_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(Bundle, "save", full)
    with pytest.raises(ConfigError, match="No space left on device.*free the disk"):
        import_weights(config(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_label_space_is_explained(tmp_path):
    with pytest.raises(ConfigError, match="take one of ade20k, cityscapes, coco, garments, voc, or a YAML file"):
        import_weights(config(tmp_path, label_space="voc2012"))
    with pytest.raises(WeightsError, match="classes with background: expected 81, found 21"):
        import_weights(config(tmp_path, label_space="coco"))


def test_names_on_the_hub_work_as_paths_do(tmp_path, monkeypatch):
    asked = []

    def snapshot(repo, revision, allow_patterns, ignore_patterns):
        asked.append((repo, revision, allow_patterns))
        return str(TINY / "unidiffuser" if repo == "thu-ml/unidiffuser-v1" else TINY)

    monkeypatch.setattr(models.published_files, "snapshot_download", snapshot)
    sources = {"base": "thu-ml/unidiffuser-v1", "joint": "0why0/JoDiffusion@main/jodiffusion_unet"}
    folder = Path(import_weights(config(tmp_path, **sources)))
    assert asked == [("0why0/JoDiffusion", "main", ["jodiffusion_unet/*"]), ("thu-ml/unidiffuser-v1", None, ["*"])]
    assert f"`0why0/JoDiffusion@{TINY.name}/jodiffusion_unet`" in (folder / "README.md").read_text(), "with the commit"


def test_without_network_the_user_learns_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="hf download thu-ml/unidiffuser-v1"):
        import_weights(config(tmp_path, base="thu-ml/unidiffuser-v1"))
    with pytest.raises(WeightsError, match="./nowhere: no such folder"):
        import_weights(config(tmp_path, base="./nowhere"))
