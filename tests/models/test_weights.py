"""A bundle comes back as it was saved, and a wrong one is refused with a message that helps."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.annotation_vae import AnnotationVAE, AnnotationVAEConfig
from models.reverse import Student
from models.weights import ENCODERS, JOINT, Bundle, WeightsError, digest, load_net, read_facts
from tests.tiny import save_tiny_bundle


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    return folder, save_tiny_bundle(folder)


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "copy")


def test_saving_and_loading_keeps_weights_and_digest(saved, tmp_path):
    folder, bundle = saved
    bundle.save(tmp_path)
    again = Bundle.load(tmp_path)
    assert again.digest == bundle.digest == digest(folder, ENCODERS + JOINT)
    for name, value in bundle.net.state_dict().items():
        assert torch.equal(value, again.net.state_dict()[name])


def test_digest_changes_with_any_weight(saved, copy):
    path = copy / "joint" / "model.safetensors"
    tensors = load_file(path)
    tensors["pos_embed"] += 1e-3
    save_file(tensors, path)
    assert Bundle.load(copy).digest != saved[1].digest


def test_missing_folder_and_missing_part_are_named(copy):
    with pytest.raises(WeightsError, match="no such folder"):
        Bundle.load(copy / "nowhere")
    shutil.rmtree(copy / "image_vae")
    run = copy.parent / "run"
    shutil.copytree(copy, run / "weights")
    with pytest.raises(WeightsError, match="run: bundle.json, .*missing; its weights are in .*run/weights"):
        read_facts(run)
    with pytest.raises(WeightsError, match="image_vae missing"):
        Bundle.load(copy)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_schedule_is_named_and_not_the_bundle(copy, content):
    (copy / "step_cache.json").write_text(content)
    with pytest.raises(WeightsError, match=r"step_cache\.json: damaged.*remove it"):
        read_facts(copy)


def test_damaged_file_is_named(copy):
    path = copy / "joint" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"joint/model\.safetensors.*damaged"):
        Bundle.load(copy)


def test_wrong_shape_missing_and_surplus_tensors_are_listed(copy):
    path = copy / "annotation_vae" / "model.safetensors"
    tensors = load_file(path)
    tensors["extra"] = torch.zeros(1)
    tensors["encoder.0.bias"] = torch.zeros(3)
    del tensors["decoder.0.bias"]
    save_file(tensors, path)
    with pytest.raises(
        WeightsError, match=r"(?s)encoder.0.bias is \(3,\), should be \(8,\).*missing decoder.0.bias.*extra"
    ):
        load_net(AnnotationVAE, AnnotationVAEConfig, copy / "annotation_vae")


def test_unknown_config_key_is_refused(copy):
    path = copy / "annotation_vae" / "config.json"
    path.write_text(path.read_text().replace("num_bits", "num_bitz"))
    with pytest.raises(WeightsError, match="num_bitz"):
        load_net(AnnotationVAE, AnnotationVAEConfig, copy / "annotation_vae")


def test_pickles_are_never_read(copy):
    path = copy / "image_vae" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    with pytest.raises(WeightsError, match="image_vae"):
        Bundle.load(copy)


def test_a_bundle_says_whether_it_is_a_student(copy):
    assert Bundle.load(copy).student is None
    before = digest(copy, ENCODERS + JOINT)
    bundle = Bundle.load(copy)
    bundle.student = Student(4, 5.0, "abc")
    bundle.save(copy)
    loaded = Bundle.load(copy)
    assert loaded.student == bundle.student and loaded.digest != before
    facts = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps({**facts, "student": {"steps": 4}}))
    with pytest.raises(WeightsError, match="not what a bundle holds"):
        Bundle.load(copy)
