"""Published checkpoints, in every form in which people have them, give the reference's numbers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.frozen import latent_to_image
from models.labels import VOC, LabelSpace
from models.published import import_bundle, read_annotation_vae, read_base_joint, read_joint
from models.weights import Bundle, WeightsError, save_net
from tests.models.fabricated import TINY, WEIGHTS, assert_gives


def test_unidiffuser_folder_becomes_the_joint_network(expected):
    assert_gives(read_base_joint(TINY / "unidiffuser"), expected, "from_unidiffuser")


def test_folder_in_bundle_out_same_outputs(expected, tmp_path):
    parts = (TINY / "unidiffuser", TINY / "jodiffusion_unet", TINY / "jodiffusion_label_vae")
    import_bundle(*parts, labels=VOC).save(tmp_path / "bundle")
    bundle = Bundle.load(tmp_path / "bundle")
    assert_gives(bundle.net, expected, "finetuned")
    encoders = bundle.encoders
    prompts = ["a dog on grass", "two boats, a bird"]
    assert torch.equal(encoders.text.token_ids(prompts), expected["input_ids"])
    with torch.inference_mode():
        torch.testing.assert_close(encoders.text(prompts), expected["in.text"], atol=1e-5, rtol=0)
        pixels = latent_to_image(encoders.image_vae, expected["in.image_latent"])
        logits = encoders.annotation_vae.decode(encoders.annotation_vae.denormalize(expected["in.mask_latent"]))
    torch.testing.assert_close(pixels, expected["decoded.pixels_of_in_image_latent"].clamp(-1, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, expected["decoded.mask_logits_of_in_mask_latent"], atol=1e-5, rtol=1e-5)


def test_annotation_vae_needs_no_config_at_published_sizes(tmp_path):
    from models.annotation_vae import AnnotationVAE, AnnotationVAEConfig

    config = AnnotationVAEConfig(encoder_widths=(32, 32, 64, 64), decoder_width=32)
    (tmp_path / "vae").mkdir()
    save_file(AnnotationVAE(config).state_dict(), tmp_path / "vae" / WEIGHTS)
    assert read_annotation_vae(tmp_path).config == config


def test_an_annotation_vae_beside_an_image_vae_is_told_by_its_folder(tmp_path):
    shutil.copytree(TINY / "unidiffuser" / "vae", tmp_path / "vae")
    shutil.copytree(TINY / "jodiffusion_label_vae", tmp_path / "label_vae")
    assert read_annotation_vae(tmp_path).config == read_annotation_vae(tmp_path / "label_vae").config


def test_an_annotation_vae_whose_decoder_begins_at_another_width_has_its_sizes_from_its_tensors(tmp_path):
    from models.annotation_vae import AnnotationVAE, AnnotationVAEConfig

    # The reference's LabelVAE with intermediate_channels 24 and upscale_channels 16: a convolution from the latent to
    # the first, a transposed one from there to the second, and further ones within the second.
    config = AnnotationVAEConfig(
        encoder_widths=(32, 32, 64, 64), decoder_width=16, decoder_first_width=24, norm_groups=8
    )
    net = AnnotationVAE(config)
    shapes = [tuple(value.shape) for name, value in net.decoder.named_parameters() if value.ndim == 4]
    assert shapes == [(24, 4, 3, 3), (24, 16, 2, 2), (16, 16, 2, 2), (16, 16, 2, 2), (21, 16, 3, 3)]
    save_file(net.state_dict(), tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_text('{"norm_num_groups": 8}')
    found = read_annotation_vae(tmp_path)
    assert found.config == config
    mask = torch.randint(0, 21, (1, 16, 16), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found(mask), net.eval()(mask))
    save_net(found, tmp_path / "ours")
    assert read_annotation_vae(tmp_path / "ours").config == config


def test_missing_surplus_and_misshapen_tensors_are_listed_at_once(unet):
    tensors = load_file(unet / WEIGHTS)
    del tensors["label_out.bias"]
    tensors["controlnet.weight"] = torch.zeros(1)
    tensors["text_out.bias"] = torch.zeros(3)
    save_file(tensors, unet / WEIGHTS)
    with pytest.raises(WeightsError) as caught:
        read_joint(unet)
    for part in ("missing label_out.bias", "surplus controlnet.weight", "text_out.bias is (3,), should be (8,)"):
        assert part in str(caught.value)


def test_missing_and_surplus_tensors_of_an_annotation_vae_are_listed(tmp_path):
    folder = Path(shutil.copytree(TINY / "jodiffusion_label_vae", tmp_path / "vae"))
    file = next(folder.rglob("*.safetensors"))
    tensors = load_file(file)
    tensors["extra"] = tensors.pop("encoder.3.weight")
    save_file(tensors, file)
    with pytest.raises(WeightsError, match="missing encoder.3.weight(.|\n)*surplus extra"):
        read_annotation_vae(folder)


def test_another_noise_process_is_refused(base):
    path = base / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    with pytest.raises(WeightsError, match="prediction_type is 'v_prediction'"):
        import_bundle(base, TINY / "jodiffusion_unet", TINY / "jodiffusion_label_vae", VOC)


def test_sizes_that_make_no_network_are_explained(unet):
    tensors = load_file(unet / WEIGHTS)
    save_file({**tensors, "text_in.weight": torch.zeros(3)}, unet / WEIGHTS)
    with pytest.raises(WeightsError, match="misshapen text_in.weight"):
        read_joint(unet)


def test_a_library_part_without_one_tensor_is_refused(base):
    file = base / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    del tensors[next(name for name in tensors if "fc1.weight" in name)]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="fc1.weight"):
        import_bundle(base, TINY / "jodiffusion_unet", TINY / "jodiffusion_label_vae", VOC)


def test_annotation_vae_of_another_label_space_is_refused():
    other = LabelSpace.custom("other", tuple("abc"))
    with pytest.raises(WeightsError, match="bits of a class's code: expected 2, found 5"):
        import_bundle(TINY / "unidiffuser", TINY / "jodiffusion_unet", TINY / "jodiffusion_label_vae", other)


def test_a_tokenizer_without_vocabulary_is_refused(base):
    (base / "clip_tokenizer" / "merges.txt").unlink()
    with pytest.raises(WeightsError, match="vocab.json with merges.txt"):
        import_bundle(base, None, TINY / "jodiffusion_label_vae", VOC)


def test_the_references_own_pipeline_is_a_base(base, expected, tmp_path):
    """It saves `.bin`, since its label and image patch layers are the same objects when it does."""
    (base / "vae").rename(base / "image_vae")
    shutil.rmtree(base / "unet")
    shutil.copytree(TINY / "jodiffusion_unet", base / "unet")
    tensors = load_file(base / "unet" / WEIGHTS)
    (base / "unet" / WEIGHTS).unlink()
    for kind in ("weight", "bias"):
        tensors[f"vae_label_in.proj.{kind}"] = tensors[f"vae_img_in.proj.{kind}"]
    torch.save(tensors, base / "unet" / "diffusion_pytorch_model.bin")
    import_bundle(base, None, TINY / "jodiffusion_label_vae", VOC).save(tmp_path / "bundle")
    net = Bundle.load(tmp_path / "bundle").net
    assert torch.equal(net.vae_label_in.proj.weight, net.vae_img_in.proj.weight)


def test_a_half_precision_encoder_becomes_float32(base):
    folder = base / "text_encoder"
    path, file = folder / "config.json", folder / "model.safetensors"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dtype": "float16"}))
    half = {name: value.half() if value.is_floating_point() else value for name, value in load_file(file).items()}
    save_file(half, file, metadata={"format": "pt"})
    bundle = import_bundle(base, TINY / "jodiffusion_unet", TINY / "jodiffusion_label_vae", VOC)
    assert {value.dtype for value in bundle.encoders.text.model.parameters()} == {torch.float32}


def test_a_text_encoder_is_read_with_and_without_its_prefix(base, expected):
    """transformers 5 saves it without, earlier releases with."""
    file = base / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    bare = {name.removeprefix("text_model."): value for name, value in tensors.items()}
    for form in (bare, {f"text_model.{name}": value for name, value in bare.items()}):
        save_file(form, file, metadata={"format": "pt"})
        bundle = import_bundle(base, TINY / "jodiffusion_unet", TINY / "jodiffusion_label_vae", VOC)
        with torch.inference_mode():
            text = bundle.encoders.text(["a dog on grass", "two boats, a bird"])
        torch.testing.assert_close(text, expected["in.text"], atol=1e-5, rtol=0)


def test_an_image_vae_is_no_annotation_vae():
    with pytest.raises(WeightsError, match="not a whole annotation VAE"):
        read_annotation_vae(TINY / "unidiffuser")


def test_a_misshapen_library_part_is_named(base):
    file = base / "image_encoder" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "fc1.bias" in name)
    save_file({**tensors, name: torch.zeros(3)}, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="misshapen .*fc1.bias"):
        import_bundle(base, TINY / "jodiffusion_unet", TINY / "jodiffusion_label_vae", VOC)
