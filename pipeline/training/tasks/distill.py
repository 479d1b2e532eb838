"""Teaching a bundle's network to take few steps, with guidance built in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import AutoTokenizer

from models.diffusion import LossWeights
from models.distillation import Way, student_diffusion
from models.draws import Draws
from models.frozen import latent_to_image
from models.jodiffusion import JoDiffusion, JoDiffusionConfig, Joint
from models.precision import Precision
from models.reverse import SamplerSettings, Student, reverse_process
from models.sampler import classes_and_confidence, converted
from models.weights import ENCODERS, JOINT, Bundle, digest, load_config, load_net, load_tensors, read_facts
from pipeline.base.errors import ConfigError
from pipeline.base.places import SentFolder, as_given
from pipeline.pictures.sheets import sheet
from pipeline.runs.run import Run
from pipeline.storage.copies import local_copy
from pipeline.tables.schema import Batch
from pipeline.training.config import SAFE_TO_CHANGE, TrainingConfig
from pipeline.training.fit import fit
from pipeline.training.task import Evaluation, Tensors
from pipeline.training.tasks.joint import register

JUDGED_ROWS = 16
"""Held-out prompts that are sampled at once."""
NUM_SHOWN = 8
NOT_OF_A_WAY = ("confidence_threshold", "precision", "compile", "batch_size", "step_cache")
"""Settings of a sampler that say nothing of the way through the reverse process that is taught."""


class DistillConfig(TrainingConfig):
    """Teaches a bundle's network to take few steps, with guidance built in; its weights are a whole bundle. Of the
    folders of `train` and `validation` it reads the prompts alone, and needs no pictures, masks or latents."""

    bundle: SentFolder
    """Folder or URL of the bundle that teaches, and whose weights the student begins with."""
    steps: int = Field(4, ge=1, le=8)
    """Network evaluations that the student takes for a pair."""
    teacher: SamplerSettings = SamplerSettings(steps=12, solver="dpmsolver++2", guided_to=0.5)
    """How the teacher takes its way: its steps, a multiple of `steps`, its solver, guidance and guided steps. Unset
    guidance is the bundle's own; precision and batches are those of `optimisation`."""
    loss_weights: LossWeights = LossWeights()
    """Weight of each modality's error; unset means its share of all numbers. `text` and `min_snr` have no meaning."""

    @model_validator(mode="after")
    def _fits(self) -> DistillConfig:
        if self.teacher.steps % self.steps:
            raise ValueError(
                f"teacher.steps {self.teacher.steps} must be a multiple of steps {self.steps}: one step of the student "
                "stands for several whole ones of its teacher"
            )
        default = SamplerSettings()
        if given := [key for key in NOT_OF_A_WAY if getattr(self.teacher, key) != getattr(default, key)]:
            raise ValueError(
                f"{', '.join(f'teacher.{key}' for key in given)} cannot be chosen: the teacher computes as "
                "`optimisation` says, and only its latents are learned; leave them out"
            )
        if self.loss_weights.text is not None or self.loss_weights.min_snr:
            raise ValueError("loss_weights.text and loss_weights.min_snr have no meaning here; leave them out")
        return self

    def check_inputs(self) -> None:
        super().check_inputs()
        if "://" not in self.bundle:
            read_facts(self.bundle)


def distill(config: DistillConfig) -> dict[str, float]:
    """Trains the student and leaves a bundle in `<run>/weights`; returns how near it comes to its teacher.

    Raises:
        ConfigError: the bundle is a student already.
        WeightsError: no bundle.
    """
    bundle = local_copy(config.bundle)
    facts = read_facts(bundle)
    if facts.student:
        raise ConfigError(
            f"bundle: {as_given(config.bundle)} was distilled to {facts.student.steps} evaluations itself; give the "
            f"one that taught it, {facts.student.teacher}"
        )
    config = config.model_copy(update={"teacher": config.teacher.resolved(facts.guidance)})
    teacher = digest(bundle, ENCODERS + JOINT)
    with Run.open(config, "distill", SAFE_TO_CHANGE | {"bundle"}, {"bundle_digest": teacher}, on_store=True) as run:
        task = DistillTask(config, Student(config.steps, cast(float, config.teacher.guidance), teacher))
        scores = fit(task, config, run)
        register(config.run, 1.0, run, scores)
        return scores


@dataclass(frozen=True)
class DistillTask:
    """Each step of the student lands where several guided steps of its teacher land, from the same state.

    The states are those that the student itself comes by on its way from pure noise (as in DAgger, Ross et al. 2011),
    so that it learns what it will need, from prompts alone: progressive distillation (Salimans & Ho 2022) with guidance
    built in (Meng et al. 2023), without its halvings and without pictures. The teacher's way is deterministic, but for
    the noise that stands for no text, so that a squared error does not blur.
    """

    config: DistillConfig
    student: Student
    columns: tuple[str, ...] = ("prompt",)
    judged_by = ("distance", 1)

    def decode(self, batch: Batch) -> Batch:
        tokenizer, num_tokens = _tokenizer(self.config.bundle)
        prompts = [str(prompt) for prompt in batch["prompt"]]
        tokens = tokenizer(prompts, padding="max_length", max_length=num_tokens, truncation=True)
        return {"token_ids": np.array(tokens["input_ids"], np.int64)}

    def build(self) -> nn.Module:
        folder = local_copy(self.config.bundle) / "joint"
        net = JoDiffusion(load_config(JoDiffusionConfig, folder))
        if not net.pos_embed.is_meta:  # sizes alone hold no weights
            load_tensors(net, load_net(JoDiffusion, JoDiffusionConfig, folder).state_dict(), where=str(folder))
        return net

    def loss(self, net: nn.Module, batch: Tensors, draws: Draws) -> tuple[Tensor, Tensors]:
        teacher, steps, rows = self._teacher(draws.device), self.config.steps, len(batch["token_ids"])
        states, targets = [], []
        with torch.no_grad():
            state, text = begin(teacher, batch, draws)
            for step in range(steps):
                after = self._taught(teacher, state, text, draws, step)
                states.append(state)
                targets.append(Joint(*(self.way.target(*pair, step) for pair in zip(state, after, strict=True))))
                if step + 1 < steps:
                    state = self._walked(net, state, text, range(step, step + 1))
        noisy, target = (Joint(*map(torch.cat, zip(*values, strict=True))) for values in (states, targets))
        times = self.way.times.to(draws.device).repeat_interleave(rows)
        # All steps at once: workers that share a network exchange for each pass.
        prediction, text_prediction = net(noisy, text.repeat(steps, 1, 1), times, torch.zeros_like(times))
        total = sum(value[0].numel() for value in noisy)
        loss = 0 * text_prediction.float().sum()  # DistributedDataParallel demands that every parameter takes part
        parts: Tensors = {}
        for name, predicted, wanted in zip(Joint._fields, prediction, target, strict=True):
            error = (predicted.float() - wanted).square().flatten(1).mean(1).unflatten(0, (steps, rows))
            weight = getattr(self.config.loss_weights, name)
            loss = loss + (wanted[0].numel() / total if weight is None else weight) * error.mean()
            parts[name] = error.detach().mean(0)
            parts |= {f"{name}/step_{step + 1}": value for step, value in enumerate(error.detach())}
        return loss, parts

    def evaluate(self, net: nn.Module, held_out: Tensors) -> Evaluation:
        """How near the student comes to its teacher from the same noise, and as "undistilled" how near the teacher does
        in as few steps: root mean squares over image and mask latents, and the share of pixels of one class."""
        tokens, config = held_out["token_ids"], self.config
        teacher, short = self._teacher(tokens.device), replace(config.teacher, steps=config.steps)
        found: dict[str, list[Tensor]] = {}
        shown: list[np.ndarray] = []
        for number, ids in enumerate(tokens.split(JUDGED_ROWS)):
            draws = Draws(0, number, range(len(ids)), tokens.device)
            with self._precision(tokens.device):
                start, text = begin(teacher, {"token_ids": ids}, draws)
                taught = self._taught(teacher, start, text, draws)
                mine = self._walked(net, start, text, range(config.steps))
                scheduler = teacher.diffusion.scheduler(short.solver)
                empty = partial(draws.normal, text.shape[1:])
                plain = reverse_process(teacher.net, scheduler, start, text, short, empty)
                masks = [_masks(teacher, latents.mask) for latents in (taught, mine, plain)]
                shown = shown or [*_pictures(teacher, taught, masks[0]), *_pictures(teacher, mine, masks[1])]
            for prefix, latents, mask in (("", mine, masks[1]), ("undistilled/", plain, masks[2])):
                for name, value in nearness(latents, taught, mask, masks[0]).items():
                    found.setdefault(f"{prefix}{name}", []).append(value)
        metrics = {name: float(torch.cat(values).mean()) for name, values in found.items()}
        return Evaluation(metrics, {"samples": sheet(shown)})

    def save(self, net: nn.Module, examples: Tensors, folder: Path) -> None:
        teacher, net = Bundle.load(local_copy(self.config.bundle)), cast(JoDiffusion, net)
        diffusion = student_diffusion(teacher.diffusion)
        replace(teacher, net=net, diffusion=diffusion, guidance=1.0, student=self.student).save(folder)

    @cached_property
    def way(self) -> Way:
        """The student's steps."""
        return Way.of(student_diffusion(read_facts(local_copy(self.config.bundle)).diffusion), self.config.steps)

    def _teacher(self, device: torch.device) -> Bundle:
        return _loaded(self.config.bundle, str(device), self.config.optimisation.precision)

    def _taught(self, teacher: Bundle, state: Joint, text: Tensor, draws: Draws, step: int | None = None) -> Joint:
        """Where the teacher arrives from `state`: behind step number `step` of the student, or at the end of all."""
        settings = self.config.teacher
        each = settings.steps // self.config.steps
        part = None if step is None else range(step * each, (step + 1) * each)
        scheduler, empty = teacher.diffusion.scheduler(settings.solver), partial(draws.normal, text.shape[1:])
        return reverse_process(teacher.net, scheduler, state, text, settings, empty, part=part)

    def _walked(self, net: nn.Module, state: Joint, text: Tensor, part: range) -> Joint:
        """Where the student arrives."""
        settings = self.student.settings()
        scheduler = self.way.diffusion.scheduler(settings.solver)
        return reverse_process(net, scheduler, state, text, settings, lambda: text, part=part)

    def _precision(self, device: torch.device) -> torch.autocast:
        half = self.config.optimisation.precision == "bfloat16"
        return torch.autocast(device.type, torch.bfloat16, enabled=half)


def begin(teacher: Bundle, batch: Tensors, draws: Draws) -> tuple[Joint, Tensor]:
    """Pure noise, and the embedding (B, T, E) of the prompts."""
    net = teacher.net.config
    latent = (net.latent_size, net.latent_size)
    noise = Joint(
        draws.normal((net.image_channels, *latent)),
        draws.normal((1, net.clip_image_width)),
        draws.normal((net.mask_channels, *latent)),
    )
    return noise, teacher.encoders.text.model(batch["token_ids"]).last_hidden_state


def nearness(found: Joint, wanted: Joint, mask: Tensor, wanted_mask: Tensor) -> dict[str, Tensor]:
    """Root mean squares (B,) of what lies between latents, and the share of pixels (B, H, W) of one class."""
    apart = {
        name: (one - other).square().flatten(1).mean(1).sqrt()
        for name, one, other in zip(Joint._fields, found, wanted, strict=True)
    }
    return {
        "distance": (apart["image"] + apart["mask"]) / 2,
        "mask_agreement": (mask == wanted_mask).float().flatten(1).mean(1),
        **{f"distance/{name}": value for name, value in apart.items()},
    }


def _masks(bundle: Bundle, latents: Tensor) -> Tensor:
    """(B, H, W) class ids; pixels that the decoder is not sure of are something else."""
    vae = bundle.encoders.annotation_vae
    return classes_and_confidence(vae.decode(vae.denormalize(latents)), bundle.encoders.labels, threshold=0.5)[0]


def _pictures(bundle: Bundle, latents: Joint, masks: Tensor) -> list[np.ndarray]:
    """The first pictures and their masks' colours, (B, H, W, 3) uint8 each."""
    pixels = latent_to_image(bundle.encoders.image_vae, latents.image[:NUM_SHOWN]).float()
    image = ((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [image, bundle.encoders.labels.colours(masks[:NUM_SHOWN].cpu().numpy())]


@lru_cache(1)
def _loaded(folder: str, device: str, precision: Precision) -> Bundle:
    """A bundle that teaches, on a device; read once a process."""
    bundle = Bundle.load(local_copy(folder))
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    bundle.encoders.to(torch.device(device))
    return replace(bundle, net=converted(bundle.net, torch.device(device), dtype).requires_grad_(False))


@lru_cache(1)
def _tokenizer(folder: str) -> tuple[Any, int]:
    """Of a bundle, and how many tokens its prompts have."""
    bundle = local_copy(folder)
    tokenizer = AutoTokenizer.from_pretrained(bundle / "tokenizer", local_files_only=True)
    return tokenizer, load_config(JoDiffusionConfig, bundle / "joint").num_text_tokens
