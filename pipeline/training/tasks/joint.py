"""Training the joint network on latents."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.diffusion import NUM_TIMES, Diffusion, LossWeights, joint_loss
from models.draws import Draws
from models.jodiffusion import JoDiffusion, JoDiffusionConfig, Joint
from models.labels import LabelSpace
from models.reverse import SamplerSettings
from models.sampler import PairSampler
from models.weights import ENCODERS, JOINT, Bundle, Encoders, digest, load_config, load_net, load_tensors, read_facts
from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.base.places import Folder, as_given
from pipeline.pictures.sheets import sheet
from pipeline.runs.run import Run
from pipeline.storage.copies import local_copy
from pipeline.storage.files import is_local
from pipeline.tables.schema import Batch, latent_shapes
from pipeline.tables.shards import open_shard, some_shards
from pipeline.training.config import SAFE_TO_CHANGE, TrainingConfig
from pipeline.training.fit import WEIGHTS_FOLDER, fit
from pipeline.training.overlap import tell_of_training
from pipeline.training.task import Evaluation, Tensors

JUDGED_ROWS = 16
"""Held-out rows that are judged at once: less memory than a step's."""
TIME_BUCKETS = (0, 200, 400, 600, 800, NUM_TIMES)
"""Errors are logged apart by their times, from clean to noise."""


class JointConfig(TrainingConfig):
    """Trains the joint diffusion network on the latents of `jobs.encode`; its weights are a whole bundle."""

    net: JoDiffusionConfig = JoDiffusionConfig()
    """Sizes of the network."""
    initial: Folder = ""
    """Folder or URL of a bundle whose joint network training starts from; `net`, `diffusion` and `image_size_px` are
    then its own, but for those of their keys that are given other than by default. `diffusion.objective` is what its
    weights predict, and stays. Empty: fresh weights."""
    diffusion: Diffusion = Diffusion()
    """The noise process."""
    loss_weights: LossWeights = LossWeights()
    """Weight of each modality's error; unset means its share of all numbers, as in the paper."""
    preview: SamplerSettings = SamplerSettings(steps=20, guidance=1.0, batch_size=8)
    """How the pictures of samples in MLflow are made."""
    preview_prompts: tuple[str, ...] = Field(("",), min_length=1)
    """Their prompts, at most `preview.batch_size`."""
    image_size_px: int = Field(512, ge=8)
    """Side of the pictures behind the latents."""
    guidance: float = Field(8.0, ge=0, allow_inf_nan=False)
    """Scale of guidance that the bundle recommends to whoever samples; the paper's is 8."""

    @model_validator(mode="after")
    def _preview_without_cache(self) -> JointConfig:
        if self.preview.step_cache != "off":
            raise ValueError(
                "preview.step_cache: a network in training has no schedule of what is reused; leave it out, and make "
                "one for the finished bundle with jobs.calibrate"
            )
        return self

    def check_inputs(self) -> None:
        super().check_inputs()
        if all(map(is_local, (*self.train, self.validation, self.initial))):
            check_latents(with_initial(self))


def train_joint(config: JointConfig) -> dict[str, float]:
    """Trains the network and leaves a bundle in `<run>/weights`; returns its held-out losses.

    Raises:
        ConfigError: the latents have other shapes than the network, or sets were made by different encoders.
    """
    config = with_initial(config)
    safe = SAFE_TO_CHANGE | {"preview", "preview_prompts"}
    with Run.open(config, "train_joint", safe, on_store=True) as run:
        shapes = check_latents(config)
        initial = config.initial
        task = JointTask(config, f"{config.train[0]}/encoders", initial, shapes)
        if initial:
            task.build()  # weights of another shape are told now, not by every worker
            log.info("train_joint: goes on from %s, with %s", as_given(initial), config.diffusion)
        tell_of_training(config)
        scores = fit(task, config, run)
        register(config.run, config.guidance, run, scores)
        return scores


def register(name: str, guidance: float, run: Run, scores: dict[str, float]) -> None:
    """Makes the finished bundle a version of the model that is named after the run, in MLflow's registry."""
    weights = f"{run.folder}/{WEIGHTS_FOLDER}"
    folder = local_copy(weights)
    tags = {
        "digest": digest(folder, ENCODERS + JOINT),
        "guidance": str(guidance),
        "label_space": LabelSpace.load(folder / "label_space.json").name,
    }
    run.tracker.register(weights, name, scores, tags)


def with_initial(config: JointConfig) -> JointConfig:
    """The config with the sizes and the noise process of the bundle that it starts from.

    Raises:
        ConfigError: it asks for another objective than the bundle's, or its sizes and the bundle's make no network.
    """
    if not config.initial:
        return config
    initial = local_copy(config.initial)
    facts = read_facts(initial)
    own = facts.diffusion.objective
    if config.diffusion.objective not in (Diffusion().objective, own):
        raise ConfigError(
            f"diffusion.objective: the network of {as_given(config.initial)} predicts as {own} says, and "
            f"{config.diffusion.objective} is asked for; leave it out, or start from fresh weights"
        )
    try:
        found: dict[str, Any] = {
            "net": _merged(load_config(JoDiffusionConfig, initial / "joint"), config.net),
            "diffusion": _merged(facts.diffusion, config.diffusion),
        }
    except ValueError as error:
        raise ConfigError(f"net or diffusion, with those of {as_given(config.initial)}: {error}") from error
    if config.image_size_px == JointConfig.model_fields["image_size_px"].default:
        found["image_size_px"] = facts.image_size_px
    return config.model_copy(update=found)


def _merged(own: Any, given: Any) -> Any:
    """A dataclass of a bundle, with those values of another one that are not its defaults."""
    default = type(given)()
    changed = {field.name: getattr(given, field.name) for field in fields(given)}
    return replace(own, **{key: value for key, value in changed.items() if value != getattr(default, key)})


def check_latents(config: JointConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the latents, after comparing them with the network and all sets with each other."""
    found: dict[str, str] = {}
    sizes: dict[str, dict[str, tuple[int, ...]]] = {}
    for folder in (*config.train, config.validation):
        with open_shard(some_shards(folder)[0]) as shard:
            schema = shard.schema_arrow
        if b"encoders" not in (schema.metadata or {}):
            raise ConfigError(f"{as_given(folder)}: holds no latents; give runs of jobs.encode")
        found[folder], sizes[folder] = schema.metadata[b"encoders"].decode(), latent_shapes(schema)
    for what, of_each in (("encoders", found), ("shapes", sizes)):
        if any(one != of_each[config.train[0]] for one in of_each.values()):
            raise ConfigError(f"latents of different {what} cannot be mixed: {of_each}; encode them again alike")
    shapes = sizes[config.train[0]]
    beside, made_by = digest(local_copy(f"{config.train[0]}/encoders"), ENCODERS), found[config.train[0]]
    if beside != made_by:
        raise ConfigError(
            f"{config.train[0]}: its latents are of encoders {made_by}, but those in its folder encoders/, which would "
            f"go into the bundle, are {beside}; encode again under another --run name"
        )
    net = config.net
    if net.mask_time != (config.diffusion.mask_time == "independent"):
        raise ConfigError(
            f"net.mask_time is {net.mask_time}, but diffusion.mask_time is {config.diffusion.mask_time}: independent "
            "times of image and mask need both --net.mask-time and --diffusion.mask-time independent"
        )
    wanted = {
        "image_latent": (net.image_channels, net.latent_size, net.latent_size),
        "mask_latent": (net.mask_channels, net.latent_size, net.latent_size),
        "image_embedding": (1, net.clip_image_width),
        "text_embedding": (net.num_text_tokens, net.text_width),
    }
    if wrong := [f"{key} is {shapes[key]}, net expects {wanted[key]}" for key in wanted if shapes[key] != wanted[key]]:
        raise ConfigError(f"{config.train[0]} does not fit the key `net`: " + "; ".join(wrong))
    if config.diffusion.text_noise == "independent" and net.text_prediction_width not in (None, 0, net.text_width):
        raise ConfigError(
            f"net.text_prediction_width is {net.text_prediction_width}, text is {net.text_width} wide: such a network "
            "cannot learn the noise of text; use --diffusion.text-noise dropout"
        )
    return shapes


@dataclass(frozen=True)
class JointTask:
    """Image and mask latents denoised together (models.diffusion.joint_loss)."""

    config: JointConfig
    encoders: str
    initial: str
    shapes: dict[str, tuple[int, ...]]
    judged_by = ("loss", 1)

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.shapes, "mask_weight")

    def decode(self, batch: Batch) -> Batch:
        def halves(cells: np.ndarray, shape: tuple[int, ...], absent: np.ndarray) -> np.ndarray:
            found = (
                np.frombuffer(cell, "<f2").reshape(shape) if cell else np.full(shape, value, np.float16)
                for cell, value in zip(cells, absent, strict=True)
            )
            return np.stack(list(found))

        num = len(batch["mask_latent"])
        arrays = {name: halves(batch[name], shape, np.zeros(num)) for name, shape in self.shapes.items()}
        has_mask = np.array([bool(cell) for cell in batch["mask_latent"]], np.float16)
        weights = batch.get("mask_weight", np.full(num, None))  # older latents have no such column
        return {**arrays, "mask_weight": halves(weights, self.shapes["mask_latent"][1:], has_mask)}

    def build(self) -> nn.Module:
        net = JoDiffusion(self.config.net)
        if self.initial and not net.pos_embed.is_meta:  # sizes alone hold no weights
            tensors = load_net(JoDiffusion, JoDiffusionConfig, local_copy(self.initial) / "joint").state_dict()
            load_tensors(net, tensors, where=self.initial)
        return net

    def loss(self, net: nn.Module, batch: Tensors, draws: Draws) -> tuple[Tensor, Tensors]:
        clean = Joint(batch["image_latent"].float(), batch["image_embedding"].float(), batch["mask_latent"].float())
        text = batch["text_embedding"].float()
        config = self.config
        weight = batch["mask_weight"].float() if "mask_weight" in batch else None
        loss, errors = joint_loss(net, config.diffusion, clean, text, config.loss_weights, draws, weight)
        parts = {name: squared for name, (squared, _) in errors.items()}
        for name, (squared, times) in errors.items():
            for bucket, (start, end) in enumerate(pairwise(TIME_BUCKETS)):
                inside = (times >= start) & ((times < end) | (bucket == len(TIME_BUCKETS) - 2))
                parts[f"{name}/time_{start}-{end}"] = torch.where(inside, squared, torch.nan)
        return loss, parts

    def evaluate(self, net: nn.Module, held_out: Tensors) -> Evaluation:
        """Losses at the same times and noise whenever it is asked, and samples of the same prompts and noise."""
        found: dict[str, list[Tensor]] = {}
        device, half = held_out["image_latent"].device, self.config.optimisation.precision == "bfloat16"
        for start in range(0, len(held_out["image_latent"]), JUDGED_ROWS):
            part = {name: value[start : start + JUDGED_ROWS] for name, value in held_out.items()}
            num_rows = len(part["image_latent"])
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss, parts = self.loss(net, part, Draws(0, 0, range(start, start + num_rows), device))
            for name, value in {"loss": loss.expand(num_rows), **parts}.items():
                found.setdefault(name, []).append(value.float())
        metrics = {name: float(torch.cat(values).nanmean()) for name, values in found.items()}
        seen = {name: value for name, value in metrics.items() if value == value or "/" not in name}
        return Evaluation(seen, self._samples(net))

    def _samples(self, net: nn.Module) -> dict[str, np.ndarray]:
        prompts = [prompt for prompt in self.config.preview_prompts if prompt][: self.config.preview.batch_size]
        if not prompts:
            return {}
        bundle = self._bundle(net)
        device = next(net.parameters()).device
        pairs = PairSampler(bundle, self.config.preview, device)(prompts, range(len(prompts)))
        colours = np.stack([bundle.encoders.labels.colours(mask) for mask in pairs.mask])
        return {"samples": sheet([pairs.image, colours])}

    def _bundle(self, net: nn.Module) -> Bundle:
        config, encoders = self.config, Encoders.load(local_copy(self.encoders))
        net = cast(JoDiffusion, net)
        return Bundle(encoders, net, config.diffusion, config.image_size_px, config.guidance, digest="")

    def save(self, net: nn.Module, examples: Tensors, folder: Path) -> None:
        self._bundle(net).save(folder)
