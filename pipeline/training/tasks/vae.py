"""Training the two autoencoders: of masks (AnnotationVAE) and of images (diffusers' AutoencoderKL)."""

from __future__ import annotations

from pipeline.runs.run import Run
from pipeline.tables.label_space import common_labels
from pipeline.training.config import SAFE_TO_CHANGE
from pipeline.training.fit import fit
from pipeline.training.overlap import tell_of_training
from pipeline.training.task import Task
from pipeline.training.tasks.annotation_vae import AnnotationTask
from pipeline.training.tasks.image_vae import ImageTask
from pipeline.training.tasks.latents import VAEConfig


def train_vae(config: VAEConfig) -> dict[str, float]:
    """Trains the autoencoder and leaves its weights in `<run>/weights`; returns its scores on held-out pairs."""
    with Run.open(config, "train_vae", SAFE_TO_CHANGE, on_store=True) as run:
        annotation = config.net == "annotation"
        task: Task = (
            AnnotationTask(common_labels([*config.train, config.validation]), config)
            if annotation
            else ImageTask(config)
        )
        tell_of_training(config)
        return fit(task, config, run)
