"""Files of checkpoints are read in every form in which people have them, and damaged ones are named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.labels import VOC
from models.published import import_bundle, read_joint
from models.published_files import Published, holder, locate, read_config, read_one, read_tensors, subfolder
from models.weights import WeightsError
from tests.models.fabricated import TINY, WEIGHTS, assert_gives


def in_unet(folder: Path) -> None:
    (folder / "unet").mkdir()
    for file in list(folder.glob("*.*")):
        shutil.move(file, folder / "unet" / file.name)


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def in_shards(
    folder: Path, save: Callable[[dict[str, torch.Tensor], Path], None] = save_file, kind: str = "safetensors"
):
    tensors = sorted(load_file(folder / WEIGHTS).items())
    (folder / WEIGHTS).unlink()
    names: dict[str, str] = {}
    for number, part in enumerate((tensors[:40], tensors[40:]), start=1):
        file = f"diffusion_pytorch_model-0000{number}-of-00002.{kind}"
        save(dict(part), folder / file)
        names |= {name: file for name, _ in part}
    (folder / f"diffusion_pytorch_model.{kind}.index.json").write_text(json.dumps({"weight_map": names}))


def in_shards_of_pickles(folder: Path) -> None:
    in_shards(folder, torch.save, "bin")


def wrapped(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({f"module._orig_mod.{name}": value for name, value in tensors.items()}, folder / WEIGHTS)


def of_a_trainer(folder: Path) -> None:
    torch.save({"state_dict": load_file(folder / WEIGHTS)}, folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def beside_half_precision(folder: Path) -> None:
    half = {name: value.half() for name, value in load_file(folder / WEIGHTS).items()}
    save_file(half, folder / "diffusion_pytorch_model.fp16.safetensors")


def without_unused_part(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    kept = {name: value for name, value in tensors.items() if not name.startswith("transformer.pos_embed.proj")}
    assert len(kept) == len(tensors) - 2
    save_file(kept, folder / WEIGHTS)


def with_unknown_config_key(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "of_a_later_version": 1}))


@pytest.mark.parametrize(
    "change",
    [
        in_unet,
        as_pickle,
        in_shards,
        in_shards_of_pickles,
        wrapped,
        of_a_trainer,
        beside_half_precision,
        without_unused_part,
        with_unknown_config_key,
    ],
)
def test_every_form_of_a_joint_checkpoint_is_read(change: Callable[[Path], None], unet, expected):
    change(unet)
    assert_gives(read_joint(unet), expected, "finetuned")


@pytest.mark.parametrize("name", [WEIGHTS, "diffusion_pytorch_model.fp16.safetensors"])
def test_half_precision_is_read_as_float32(name, unet):
    full = load_file(unet / WEIGHTS)
    (unet / WEIGHTS).unlink()
    save_file({name: value.half() for name, value in full.items()}, unet / name)
    for name, value in read_joint(unet).state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, full[name].half().float())


class Evil:
    def __reduce__(self):
        return (print, ("code from a stranger ran",))


def test_a_lost_shard_is_told_by_its_tensors(unet):
    """The last block of the first half, whose partner in the second half is there."""
    tensors = load_file(unet / WEIGHTS)
    last = max(int(name.split(".")[2]) for name in tensors if "transformer_in_blocks" in name)
    lost = f"transformer.transformer_in_blocks.{last}."
    save_file({name: value for name, value in tensors.items() if not name.startswith(lost)}, unet / WEIGHTS)
    with pytest.raises(WeightsError, match=f"missing {lost}") as error:
        read_joint(unet)
    assert "surplus" not in str(error.value)


def test_a_pickle_with_code_in_it_is_refused(unet, capsys):
    (unet / WEIGHTS).unlink()
    torch.save({"weight": Evil()}, unet / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match="never unpickled"):
        read_joint(unet)
    assert "stranger" not in capsys.readouterr().out


def test_truncated_and_absent_files_are_named(unet):
    file = unet / WEIGHTS
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=f"{WEIGHTS}: damaged"):
        read_joint(unet)
    file.unlink()
    with pytest.raises(WeightsError, match="no weights here"):
        read_joint(unet)
    with pytest.raises(WeightsError, match="no such folder"):
        read_joint(unet / "nowhere")


def test_a_damaged_name_in_an_old_checkpoint_is_damage_too(tmp_path):
    file = tmp_path / "old.pth"
    torch.save({"weight": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes().replace(b"weight", b"\x90eight"))
    with pytest.raises(WeightsError, match=r"old\.pth: damaged"):
        read_one(file)


@pytest.mark.parametrize("part", ["text_decoder", "unet", "vae", "text_encoder", "clip_tokenizer", "image_encoder"])
def test_a_missing_part_of_unidiffuser_is_named(part, base):
    shutil.rmtree(base / part)
    with pytest.raises(WeightsError, match=f"no sub-folder {part}"):
        import_bundle(base, None, TINY / "jodiffusion_label_vae", VOC)


@pytest.mark.parametrize("text", ["[", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_damaged_index_is_named(text, unet):
    (unet / WEIGHTS).unlink()
    (unet / f"{WEIGHTS}.index.json").write_text(text)
    with pytest.raises(WeightsError, match="index.json: not an index|index.json names files that are missing"):
        read_joint(unet)


def test_full_precision_is_read_before_half_and_safetensors_before_pickles(tmp_path):
    forms = ["model.safetensors", "model.bin", "model.fp16.safetensors"]
    for number, name in enumerate(forms):
        tensors = {"a": torch.full((2,), float(number))}
        save_file(tensors, tmp_path / name) if name.endswith("safetensors") else torch.save(tensors, tmp_path / name)
    for number, name in enumerate(forms):
        assert read_tensors(tmp_path)["a"].tolist() == [number] * 2
        (tmp_path / name).unlink()
    with pytest.raises(WeightsError, match=f"{tmp_path}: no weights here; expected diffusion_pytorch_model or model"):
        read_tensors(tmp_path)


def test_tied_tensors_get_memory_of_their_own(tmp_path):
    tied = torch.arange(3.0)
    torch.save({"module.a": tied, "module.b": tied, "module.count": torch.tensor(7)}, tmp_path / "model.bin")
    found = read_tensors(tmp_path)
    found["a"] += 1
    assert found["b"].tolist() == [0, 1, 2] and found["count"].dtype is torch.int64


def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path):
    torch.save({"step": 3}, tmp_path / "model.bin")
    with pytest.raises(WeightsError, match="holds no dictionary of tensors"):
        read_tensors(tmp_path)


def test_configs_are_read_where_there_are_any(tmp_path):
    assert read_config(tmp_path) == {}
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert read_config(tmp_path) == {"a": 1}
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="config.json: not JSON"):
        read_config(tmp_path)


def test_checkpoints_are_found_in_their_sub_folders(tmp_path):
    assert holder(tmp_path, "unet", "joint") == tmp_path
    (tmp_path / "joint").mkdir()
    assert holder(tmp_path, "unet", "joint") == subfolder(tmp_path, "unet", "joint") == tmp_path / "joint"
    with pytest.raises(WeightsError, match="no sub-folder vae; expected the layout of .* found joint"):
        subfolder(tmp_path, "vae")
    for find in (holder, subfolder):
        with pytest.raises(WeightsError, match="nowhere: no such folder"):
            find(tmp_path / "nowhere", "unet")


def test_a_name_on_the_hub_is_fetched_at_its_commit_without_what_need_not_be(tmp_path, monkeypatch):
    asked: dict[str, Any] = {}

    def fetch(repository, **options):
        asked.update(options, repository=repository)
        return str(tmp_path / "0123abcd")

    (tmp_path / "0123abcd" / "part").mkdir(parents=True)
    monkeypatch.setattr("models.published_files.snapshot_download", fetch)
    found = locate("someone/model@v2/part", without=["safety"])
    assert found == Published(tmp_path / "0123abcd" / "part", "someone/model@0123abcd/part")
    assert (asked["repository"], asked["revision"], asked["allow_patterns"]) == ("someone/model", "v2", ["part/*"])
    assert {"safety/*", "*.ckpt"} <= set(asked["ignore_patterns"])
    with pytest.raises(WeightsError, match="someone/model on the Hugging Face hub has no folder 'other'"):
        locate("someone/model/other")
    assert locate(str(tmp_path)) == Published(tmp_path, tmp_path.name), "a folder of this machine is itself"


@pytest.mark.parametrize("source", ["./nowhere", "nowhere", "/no/where", "~/nowhere-at-all"])
def test_what_can_only_be_a_path_is_not_looked_for_on_the_hub(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("models.published_files.snapshot_download", None)
    with pytest.raises(WeightsError, match="no such folder; check the path"):
        locate(source)


def test_without_network_the_folder_can_be_fetched_elsewhere(monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr("models.published_files.snapshot_download", refuse)
    told = r"ConnectionError: no route to host\)\. .* `hf download someone/model` and give the folder's path$"
    with pytest.raises(WeightsError, match=told):
        locate("someone/model")
