"""How each segmenter is trained where it was published, so that figures can stand beside those."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from models.segmenters import SegmenterName
from pipeline.training.optimisation import Optimisation
from pipeline.training.tasks.augment import Augmentation

Style = Literal["published", "dataset_diffusion"]
"""Whose recipe: mmsegmentation's, or the one of Dataset Diffusion (NeurIPS 2023), for DeepLabV3 alone."""
UNCLIPPED = 1e9
"""A norm that no gradient has."""


@dataclass(frozen=True)
class Recipe:
    """A training but for its length.

    Attributes:
        batch_size: examples of a step.
        warmup_steps: over which the learning rate rises.
        keys: further keys of `Optimisation`.
        augmentation: None mirrors and recolours a little.
    """

    batch_size: int
    warmup_steps: int
    keys: dict[str, Any]
    augmentation: Augmentation | None

    def optimisation(self, num_examples: int, batch_size: int = 0, learning_rate: float = 0.0) -> Optimisation:
        """The whole recipe of a training of so many examples; what is 0 is as published."""
        batch_size = batch_size or self.batch_size
        keys = {**self.keys, **({"learning_rate": learning_rate} if learning_rate else {})}
        return Optimisation(
            num_examples=max(batch_size, num_examples),
            batch_size=batch_size,
            warmup_examples=batch_size * self.warmup_steps,
            **keys,
        )


def recipe_of(name: SegmenterName, *, crop_px: int = 512, style: Style = "published") -> Recipe:
    """The recipe of a segmenter.

    Args:
        name: of the segmenter.
        crop_px: side of what it is trained on; 512 where it was published.
        style: whose.

    Raises:
        ValueError: a style that this segmenter has not.
    """
    kind = name.partition("_")[0]
    if style == "dataset_diffusion" and kind != "deeplabv3":
        raise ValueError(f"the recipe dataset_diffusion is one of deeplabv3, not of {name}; take published")
    if kind == "unet":
        return Recipe(32, 20, {"learning_rate": 5e-3, "decay_share": 0.8, "ema_decay": 0.98}, None)
    if kind == "joint":
        return Recipe(32, 20, {"learning_rate": 1e-3, "decay_share": 0.8, "ema_decay": 0.98}, None)
    steps = 0.1 if kind == "mask2former" else 0.0
    augmentation = Augmentation(crop_px, scale_step=steps)
    if style == "dataset_diffusion":
        return Recipe(8, 0, _adamw(1e-4, 1e-4, rate_factors={"backbone.": 0.1}, gradient_clip=0.01), augmentation)
    if kind == "deeplabv3":
        sgd = {"optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
        fall = {"poly_power": 0.9, "poly_floor": 0.01}
        return Recipe(16, 0, {**sgd, **fall, "gradient_clip": UNCLIPPED, "ema_decay": 0.0}, augmentation)
    if kind == "mask2former":
        factors = {"net.model.pixel_level_module.encoder.": 0.1}
        keys = _adamw(1e-4, 0.05, rate_factors=factors, gradient_clip=0.01, decay_norms=False)
        return Recipe(16, 0, keys, augmentation)
    factors = {"net.decode_head.": 10.0}
    keys = _adamw(6e-5, 0.01, rate_factors=factors, gradient_clip=UNCLIPPED, decay_norms=False, poly_power=1.0)
    return Recipe(16, 1500, keys, augmentation)


def _adamw(learning_rate: float, weight_decay: float, **keys: Any) -> dict[str, Any]:
    fall = {"poly_power": 0.9, "ema_decay": 0.0}
    return {"optimizer": "adamw", "learning_rate": learning_rate, "weight_decay": weight_decay, **fall, **keys}
