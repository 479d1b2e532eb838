"""The training objectives that `benchmarks.objective` compares, as changes of a preset, and how they are applied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from models.annotation_vae import AnnotationVAE
from pipeline.training.task import Tensors
from pipeline.training.tasks.joint import JointConfig

Changes = dict[str, Any]

ALL_ALIKE = {"image": None, "clip_image": None, "mask": None}
EPSILON = {"objective": "epsilon", "time_shift": 1.0}
V = {"objective": "v", "time_shift": 1.0}
OPTIONS: dict[str, Changes] = {
    "the reference's code: epsilon, text noised too, one mean": {
        "diffusion": {**EPSILON, "text_noise": "independent"},
        "loss_weights": ALL_ALIKE,
    },
    "the paper's equations: epsilon, clean text, one mean": {"diffusion": EPSILON, "loss_weights": ALL_ALIKE},
    "epsilon, a weight per modality": {"diffusion": EPSILON},
    "epsilon, min-SNR 5": {"diffusion": EPSILON, "loss_weights": {"min_snr": 5.0}},
    "v": {"diffusion": V},
    "v, min-SNR 5": {"diffusion": V, "loss_weights": {"min_snr": 5.0}},
    "flow, time shift 1": {"diffusion": {"time_shift": 1.0}},
    "flow, time shift 3 (the preset)": {},
    "the preset without caption dropout": {"diffusion": {"text_dropout": 0.0}, "guidance": 1.0},
    "the preset, independent times": {"diffusion": {"mask_time": "independent"}, "net": {"mask_time": True}},
    "the preset, mask latent times 0.2": {"mask_latent_std": 5.0},
}
"""Changes of the preset, whose loss has a weight per modality. `mask_latent_std`: the annotation VAE's latents are
divided by it alone, as the reference does, not normalised by their statistics."""


def changed(config: JointConfig, changes: Changes) -> JointConfig:
    """The preset with the changes of an option."""
    parts: dict[str, Any] = {
        key: replace(getattr(config, key), **changes[key])
        for key in ("diffusion", "loss_weights", "net")
        if key in changes
    }
    return config.model_copy(update=parts)


def with_statistics(vae: AnnotationVAE, std: float) -> AnnotationVAE:
    """The annotation VAE with latents that are divided by one number."""
    other = AnnotationVAE(replace(vae.config, latent_mean=(0.0,), latent_std=(std,)))
    other.load_state_dict(vae.state_dict())
    return other.eval()


def rescaled(rows: Tensors, stored: AnnotationVAE, wanted: AnnotationVAE) -> Tensors:
    """Latents as one annotation VAE normalises them -> as another does."""
    return {**rows, "mask_latent": wanted.normalize(stored.denormalize(rows["mask_latent"].float()))}
