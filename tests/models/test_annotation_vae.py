"""The annotation VAE computes what the reference computes, and codes every class of a label space."""

import torch

from models.annotation_vae import AnnotationVAE, AnnotationVAEConfig, bit_planes
from models.labels import GARMENTS, VOC, LabelSpace
from tests.models import golden


def reference() -> tuple[AnnotationVAE, dict[str, torch.Tensor]]:
    metadata, weights, tensors = golden.read("annotation_vae_voc")
    config = metadata["config"]
    vae = AnnotationVAE(
        AnnotationVAEConfig(
            num_bits=config["in_channels"],
            num_outputs=config["out_channels"],
            encoder_widths=tuple(config["block_out_channels"]),
            decoder_width=config["upscale_channels"],
            norm_groups=config["norm_num_groups"],
        )
    )
    vae.load_state_dict(weights)
    return vae, tensors


def test_bits_equal_the_reference():
    _, tensors = reference()
    assert torch.equal(bit_planes(tensors["in.mask"], 5, 21), tensors["out.bits"])


@torch.no_grad()
def test_latent_and_logits_equal_the_reference():
    vae, tensors = reference()
    posterior = vae.encode(tensors["in.mask"])
    torch.testing.assert_close(posterior.mean, tensors["out.latent_mode"], atol=1e-5, rtol=0)
    torch.testing.assert_close(posterior.std, tensors["out.latent_std"], atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.decode(tensors["out.latent_mode"]), tensors["out.logits"], atol=1e-5, rtol=0)


def test_published_size():
    with torch.device("meta"):
        vae = AnnotationVAE(AnnotationVAEConfig(num_bits=VOC.num_bits, num_outputs=VOC.num_classes + 1))
    assert sum(parameter.numel() for parameter in vae.parameters()) == 14_815_517


def test_code_of_background_and_unknown_pixels_is_zero():
    mask = torch.tensor([[[0, 255, 1, 20]]])
    planes = bit_planes(mask, 5, 21)[0, :, 0]
    assert planes[:, 0].tolist() == planes[:, 1].tolist() == [0] * 5
    assert planes[:, 2].tolist() == [1, -1, -1, -1, -1]
    assert planes[:, 3].tolist() == [-1, -1, 1, -1, 1]
    assert not bit_planes(torch.tensor([[[255, 151]]]), 8, 151).any(), "the ignore index fits into ADE20K's eight bits"


def test_every_class_has_a_code_of_its_own_even_for_a_power_of_two():
    labels = LabelSpace.custom("sixteen", tuple(f"class {index}" for index in range(16)))
    ids = torch.arange(17).view(1, 1, 17)
    codes = bit_planes(ids, labels.num_bits, labels.num_classes + 1)[0, :, 0].T.tolist()
    assert len({tuple(code) for code in codes}) == 17


def test_normalising_undoes_itself():
    config = AnnotationVAEConfig(latent_mean=(1.0, -2.0, 0.0, 3.0), latent_std=(2.0, 0.5, 1.0, 4.0))
    with torch.device("meta"):
        vae = AnnotationVAE(config)
    latent = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(vae.denormalize(vae.normalize(latent)), latent)


def test_small_network_keeps_the_size_of_the_mask():
    vae = AnnotationVAE(AnnotationVAEConfig.for_labels(GARMENTS, (8, 16, 16), 16, 4))
    logits = vae(torch.zeros(2, 16, 24, dtype=torch.uint8))
    assert logits.shape == (2, 9, 16, 24)
    assert vae.encode(torch.zeros(2, 16, 24, dtype=torch.uint8)).mean.shape == (2, 4, 4, 6)
