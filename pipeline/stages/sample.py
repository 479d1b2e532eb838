"""SamplePairs: prompts -> images and masks, on whatever holds the bundle (a GPU actor, or a test)."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from models.reverse import PRESETS, SamplerSettings, with_preset
from models.sampler import Pairs, PairSampler
from models.weights import Bundle, WeightsError, read_facts
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.log import log
from pipeline.tables.schema import Batch

HARMLESS = "a"
Preset = Literal["own", "faithful", "fast"]


def chosen_settings(sampler: SamplerSettings, preset: Preset, bundle: Path) -> SamplerSettings:
    """`sampler` with the values of a preset, told where these replace its own, and with the guidance of the bundle
    where it names none. A bundle that was distilled is sampled as it was taught.

    Raises:
        WeightsError: no bundle.
        ConfigError: a preset or settings that a distilled bundle was not taught.
    """
    facts = read_facts(bundle)
    if facts.student and preset != "own":
        raise ConfigError(
            f"preset {preset}: the bundle was distilled to {facts.student.steps} evaluations and brings its own way; "
            "give preset own"
        )
    chosen = sampler if preset == "own" else with_preset(sampler, preset)
    for key in PRESETS.get(preset, ()):
        own, default, taken = (getattr(one, key) for one in (sampler, SamplerSettings(), chosen))
        if own not in (default, taken):
            log.warning("preset %s takes sampler.%s %s, not %s", preset, key, taken, own)
    try:
        return chosen.resolved(facts.guidance, facts.student, facts.schedule)
    except ValueError as error:
        raise ConfigError(f"{bundle}: {error}") from error


def check_files(bundle: Path) -> None:
    """Reads the headers of all weights of a bundle, in milliseconds: a file that was cut short is told before any
    process loads it.

    Raises:
        WeightsError: a file is damaged.
    """
    for file in sorted(bundle.rglob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                continue
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file}: damaged ({error}); copy or make it again") from error


class SamplePairs:
    """Stage: `prompt`, `seed` -> `image` (B, H, W, 3) uint8, `mask` (B, H, W), `confidence` (B, H, W) uint8.

    Adds `confidence_mean` float32 in [0, 1], `guidance_difference` float32 (of `models.sampler.Pairs`), and `error`
    with `error_detail`: "" or why the row could not be made; such rows hold zeros, and rows that come with an `error`
    keep it. Other columns pass on.

    Args:
        bundle: folder of the weights.
        settings: of the sampler; batches hold at most `settings.batch_size` rows.
        device: to sample on.
        digest: of the weights that the run began with; "" takes any.

    Raises:
        ConfigError: this machine has other weights.
    """

    def __init__(self, bundle: str, settings: SamplerSettings, device: str = "cpu", digest: str = "") -> None:
        weights = Bundle.load(bundle)
        if digest and weights.digest != digest:
            raise ConfigError(
                f"{bundle} on {platform.node()} holds weights {weights.digest}, the driver's are {digest}; give all "
                "machines the same bundle"
            )
        if settings.precision == "float32":
            torch.backends.cudnn.allow_tf32 = False  # else convolutions round to 10 bits on the way
        try:
            self.sampler = PairSampler(weights, settings, device)
        except ValueError as error:  # settings of a row of old that this bundle cannot follow any more
            raise ConfigError(f"{bundle}: {error}") from error
        if made := self.sampler.compiled:
            log.info("sampler: %d graphs compiled in %.0f s", made.graphs, made.seconds)

    def __call__(self, batch: Batch) -> Batch:
        prompts = [str(prompt) for prompt in batch["prompt"]]
        errors, details = self._refused(prompts)
        for row, error in enumerate(batch.get("error", ())):  # given up before it came here
            if error:
                errors[row], details[row] = str(error), str(batch["error_detail"][row])
        good = [row for row, error in enumerate(errors) if not error]
        size, labels = self.sampler.bundle.image_size_px, self.sampler.bundle.encoders.labels
        image = np.zeros((len(prompts), size, size, 3), np.uint8)
        mask = np.zeros((len(prompts), size, size), labels.dtype)
        confidence = np.zeros((len(prompts), size, size), np.uint8)
        difference = np.full(len(prompts), np.nan, np.float32)
        for rows, pairs in self._sample(good, batch, errors, details):
            image[rows], mask[rows], confidence[rows] = pairs.image, pairs.mask, pairs.confidence
            difference[rows] = pairs.guidance_difference
            if not pairs.finite.any() and not self._is_sound():
                raise DataError(
                    "every sampled pair is NaN or infinite: other settings may help (sampler.precision "
                    "float32, more steps, a lower guidance), else the bundle is broken"
                )
            for row, finite in zip(rows, pairs.finite, strict=True):
                errors[row] = "" if finite else "non_finite_latent"
        return {
            **batch,
            "image": image,
            "mask": mask,
            "confidence": confidence,
            "guidance_difference": difference,
            "confidence_mean": (confidence.mean((1, 2)) / 255).astype(np.float32),
            "error": np.array(errors, object),
            "error_detail": np.array(details, object),
        }

    def _is_sound(self) -> bool:
        """Whether a harmless prompt makes a pair: if not, it is no prompt's fault, and the whole plan must not become
        errors."""
        try:
            return bool(self.sampler([HARMLESS], [0]).finite.all())
        except RuntimeError:
            return False

    def _refused(self, prompts: list[str]) -> tuple[list[str], list[str]]:
        """Reasons not to sample, and details; "" for rows that are fine."""
        text = self.sampler.bundle.encoders.text
        errors, details = [""] * len(prompts), [""] * len(prompts)
        for row, (prompt, count) in enumerate(zip(prompts, text.token_counts(prompts), strict=True)):
            if not prompt.strip():
                errors[row] = "empty_prompt"
            elif count > text.num_tokens:
                errors[row] = "prompt_too_long"
                details[row] = f"{count} tokens with start and end, the text encoder takes {text.num_tokens}"
        return errors, details

    def _draw(self, rows: list[int], batch: Batch) -> Pairs:
        """The pairs of some rows of a batch."""
        return self.sampler([str(batch["prompt"][row]) for row in rows], [int(batch["seed"][row]) for row in rows])

    def _sample(
        self, rows: list[int], batch: Batch, errors: list[str], details: list[str]
    ) -> list[tuple[list[int], Pairs]]:
        """Samples `rows` together, or one by one where that fails, so that a row that fails fails alone."""
        if not rows:
            return []
        try:
            return [(rows, self._draw(rows, batch))]
        except torch.OutOfMemoryError as error:
            raise DataError(
                f"the sampler ran out of memory with sampler.batch_size {self.sampler.settings.batch_size}: lower it "
                f"under a new --run (the batch size changes pixels) or take a device with more memory. {error}"
            ) from error
        except RuntimeError as error:
            if len(rows) > 1:
                return [one for row in rows for one in self._sample([row], batch, errors, details)]
            if not self._is_sound():
                raise DataError(
                    f"the sampler fails whatever the prompt is, so the machine, its device or the bundle is broken: "
                    f"{str(error)[:500]}"
                ) from error
            errors[rows[0]], details[rows[0]] = "sampler_failed", str(error)[:500]
            return []


class SamplePictures(SamplePairs):
    """Stage: `prompt`, `seed` and `mask` (B, H, W) of class ids -> `image` (B, H, W, 3) uint8 for these masks, which
    stay as they are; otherwise as `SamplePairs`, but without confidence. Exact or approximate: `models.reverse.Known`.
    """

    def __call__(self, batch: Batch) -> Batch:
        made = super().__call__(batch)
        given = {name: values for name, values in made.items() if not name.startswith("confidence")}
        return {**given, "mask": batch["mask"]}

    def _draw(self, rows: list[int], batch: Batch) -> Pairs:
        prompts, seeds = [str(batch["prompt"][row]) for row in rows], [int(batch["seed"][row]) for row in rows]
        return self.sampler.images_of(batch["mask"][rows], prompts, seeds)
