"""From prompts to pairs: a bundle on a device, one noise stream per pair.

Legend: B pairs, T text tokens, E text width, H and W pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.compiled import Compiled
from models.diffusion import Denoiser
from models.frozen import clip_image_embedding, image_to_latent, latent_to_image
from models.jodiffusion import JoDiffusion, Joint
from models.labels import LabelSpace
from models.reverse import Known, SamplerSettings, reverse_process
from models.step_cache import Recorder, StepCache
from models.weights import Bundle, assigned

DECODE_PIXELS = 2**20  # four pictures of 512 x 512 at once
KEPT_TEXTS = 512  # embeddings of prompts, at 77 x 768 in float32 121 MB


class Pairs(NamedTuple):
    """What the sampler makes of B prompts, on the host.

    Attributes:
        image: (B, H, W, 3) uint8.
        mask: (B, H, W) class ids, uint8 or uint16.
        confidence: (B, H, W) uint8, top class probability times 255.
        finite: (B,) bool; False where the reverse process left the numbers.
        guidance_difference: (B,) float32: how far the predictions with and without text are apart, root mean square
            over the latents, mean over the guided steps; NaN where none is guided. Large where the text alone recalls
            a picture that was learned by heart (Wen et al., ICLR 2024, section 3).
    """

    image: np.ndarray
    mask: np.ndarray
    confidence: np.ndarray
    finite: np.ndarray
    guidance_difference: np.ndarray


class NoiseStreams:
    """One stream of standard-normal numbers per pair, so that a pair's noise never depends on its batch.

    Numbers are drawn on the CPU, in the reference's order: image latent, CLIP image, mask latent, then one text noise a
    step. The same seed gives the same noise on every device. Streams are Philox's, keyed by the whole seed: torch's
    generator on the CPU sees just 32 of its bits, so that among a million pairs some would share their noise.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._streams = [np.random.Generator(np.random.Philox(key=int(seed))) for seed in seeds]

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32: the next numbers of every pair's stream."""
        return torch.from_numpy(np.stack([stream.standard_normal(shape, np.float32) for stream in self._streams]))


class PairSampler:
    """A bundle on a device, ready to turn prompts into pairs.

    In bfloat16 the joint network's weights are bfloat16, and all networks' activations. Always float32: the noise, the
    solver's state and its coefficients, guidance, the sinusoids of the times, statistics inside norms, softmax and
    class probabilities.
    """

    def __init__(self, bundle: Bundle, settings: SamplerSettings, device: str | torch.device = "cpu") -> None:
        self.settings = settings = settings.resolved(bundle.guidance, bundle.student, bundle.schedule)
        self.device = torch.device(device)
        dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
        bundle.encoders.to(self.device)
        # The caller may go on training its network, which must not change its dtype.
        self.bundle = replace(bundle, net=converted(bundle.net, self.device, dtype))
        self._denoise: Denoiser = self.bundle.net
        self.compiled: Compiled | None = None
        if settings.compile:
            guided = {self.settings.guided(step) for step in range(self.settings.steps)}
            with torch.inference_mode(), self._precision():
                rows = [settings.batch_size * (1 + both) for both in sorted(guided)]
                self.compiled = Compiled(self.bundle.net, rows)
        self._scheduler = bundle.diffusion.scheduler(settings.solver)
        self._texts: OrderedDict[str, Tensor] = OrderedDict()
        self._cache()  # a schedule that does not fit is told now

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int], recorder: Recorder | None = None) -> Pairs:
        """At most `batch_size` prompts and as many noise seeds -> pairs; a recorder sees how the layers change.

        Pixels of a pair depend on its prompt, its seed, the settings and the kind of device, not on the other rows.
        """
        return self._sample(prompts, seeds, {}, recorder)

    def masks_of(self, images: np.ndarray, prompts: Sequence[str], seeds: Sequence[int]) -> Pairs:
        """Images (B, H, W, 3) uint8, with prompts that describe them -> pairs of their reconstructions with masks.

        Exact or approximate, see `Known`.
        """
        return self._sample(prompts, seeds, self._seen(images, prompts))

    @torch.inference_mode()
    def shares_of(self, images: np.ndarray, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """As `masks_of`, but the probabilities of classes, (B, K + 1, H, W) float32 on the device."""
        vae = self.bundle.encoders.annotation_vae
        with self._precision():
            masks = self._latents(prompts, seeds, self._seen(images, prompts))[0].mask[: len(prompts)]
            parts = masks.split(self._rows_at_once())
            return torch.cat([vae.decode(vae.denormalize(part)).float().softmax(1) for part in parts])

    @torch.inference_mode()
    def _seen(self, images: np.ndarray, prompts: Sequence[str]) -> dict[str, Tensor]:
        """What is known of pairs whose images these are."""
        encoders, size = self.bundle.encoders, self.bundle.image_size_px
        self._refuse_misfit(images, (len(prompts), size, size, 3))
        if images.dtype != np.uint8:
            raise ValueError(f"images are uint8, 0 to 255, got {images.dtype}")
        pixels = torch.from_numpy(self._padded(images)).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with self._precision():
            parts = pixels.split(self._rows_at_once())
            return {
                "image": torch.cat([image_to_latent(encoders.image_vae, part) for part in parts]),
                "clip_image": clip_image_embedding(encoders.clip_image, pixels),
            }

    @torch.inference_mode()
    def images_of(self, masks: np.ndarray, prompts: Sequence[str], seeds: Sequence[int]) -> Pairs:
        """Masks (B, H, W) of class ids, with prompts -> pairs of images with the masks' reconstructions.

        Exact or approximate, see `Known`.
        """
        vae, labels, size = self.bundle.encoders.annotation_vae, self.bundle.encoders.labels, self.bundle.image_size_px
        self._refuse_misfit(masks, (len(prompts), size, size))
        if not np.issubdtype(masks.dtype, np.integer):
            raise ValueError(f"masks are whole class ids, got {masks.dtype}")
        if strange := sorted({*np.unique(masks).tolist()} - {*range(labels.num_classes + 1), labels.ignore_index}):
            raise ValueError(f"masks hold ids {strange[:8]} that label space {labels.name!r} does not have")
        ids = torch.from_numpy(self._padded(masks).astype(np.int64)).to(self.device)
        with self._precision():
            parts = ids.split(self._rows_at_once())
            known = {"mask": vae.normalize(torch.cat([vae.encode(part).mean.float() for part in parts]))}
        return self._sample(prompts, seeds, known)

    @torch.inference_mode()
    def _sample(
        self, prompts: Sequence[str], seeds: Sequence[int], known: dict[str, Tensor], recorder: Recorder | None = None
    ) -> Pairs:
        with self._precision():
            latents, apart = self._latents(prompts, seeds, known, recorder)
            chunks = zip(*(value.split(self._rows_at_once()) for value in latents), strict=True)
            decoded = [self._decode(Joint(*chunk)) for chunk in chunks]
        image, mask, confidence, finite = (
            torch.cat(parts)[: len(prompts)].cpu().numpy() for parts in zip(*decoded, strict=True)
        )
        difference = apart[: len(prompts)].float().cpu().numpy()
        return Pairs(image, mask.astype(self.bundle.encoders.labels.dtype), confidence, finite, difference)

    def _latents(
        self, prompts: Sequence[str], seeds: Sequence[int], known: dict[str, Tensor], recorder: Recorder | None = None
    ) -> tuple[Joint, Tensor]:
        """The latents of at most `batch_size` pairs, filled up to so many, and their `guidance_difference`; asks for
        `_precision` around it."""
        settings, bundle = self.settings, self.bundle
        num_pairs = len(prompts)
        if not 0 < num_pairs <= settings.batch_size or len(seeds) != num_pairs:
            raise ValueError(
                f"the sampler takes 1 to {settings.batch_size} prompts with one seed each, "
                f"got {num_pairs} prompts and {len(seeds)} seeds"
            )
        padding = settings.batch_size - num_pairs
        prompts = [*prompts, *[prompts[-1]] * padding]
        streams = NoiseStreams([*seeds, *[seeds[-1]] * padding])

        net = bundle.net.config
        start = Joint(
            image=self._on_device(streams.normal(net.image_channels, net.latent_size, net.latent_size)),
            clip_image=self._on_device(streams.normal(1, net.clip_image_width)),
            mask=self._on_device(streams.normal(net.mask_channels, net.latent_size, net.latent_size)),
        )
        text = self._text(prompts)
        apart: list[Tensor] = []
        with self.compiled.only() if self.compiled else nullcontext():
            latents = reverse_process(
                self._denoise,
                self._scheduler,
                start,
                text,
                settings,
                lambda: self._on_device(streams.normal(*text.shape[1:])).to(text.dtype),
                self._known(start, known) if known else None,
                lambda difference: apart.append(difference.square().mean(1).sqrt()),
                cache=recorder.counting(num_pairs, settings.batch_size) if recorder else self._cache(),
            )
        return latents, torch.stack(apart).mean(0) if apart else torch.full((len(text),), torch.nan)

    def _cache(self) -> StepCache | None:
        if self.settings.step_cache == "off" or not self.bundle.schedule:
            return None
        return StepCache(self.bundle.schedule, self.bundle.net.transformer)

    def _known(self, start: Joint, known: dict[str, Tensor]) -> Known:
        if self.bundle.student:
            raise ValueError(
                "a distilled bundle makes whole pairs alone: complete halves with the bundle that taught it"
            )
        clean = [known.get(name, torch.zeros_like(noise)) for name, noise in start._asdict().items()]
        is_known = [torch.full_like(noise[0], float(name in known)) for name, noise in start._asdict().items()]
        return Known(
            clean=torch.cat([value.float().flatten(1) for value in clean], dim=1),
            noise=torch.cat([value.flatten(1) for value in start], dim=1),
            is_known=torch.cat([value.flatten() for value in is_known]).bool(),
            diffusion=self.bundle.diffusion,
            held_clean=("mask" if "mask" in known else "image") if self._knows_clean_parts() else "",
        )

    def _knows_clean_parts(self) -> bool:
        """Whether training showed the network clean images with noisy masks, and the other way round; the logit-normal
        times of flow hardly ever come near 0."""
        diffusion = self.bundle.diffusion
        return diffusion.mask_time == "independent" and diffusion.objective != "flow"

    def _text(self, prompts: list[str]) -> Tensor:
        """(B, T, E) embedding of `batch_size` prompts; each distinct one is encoded once, at the one batch shape."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]
        if missing:
            padded = missing + [missing[-1]] * (len(prompts) - len(missing))
            encoded = self.bundle.encoders.text(padded)
            # Rows of their own: a view of one would keep the whole batch.
            self._texts.update({prompt: row.clone() for prompt, row in zip(missing, encoded, strict=False)})
        for prompt in prompts:
            self._texts.move_to_end(prompt)
        text = torch.stack([self._texts[prompt] for prompt in prompts])
        while len(self._texts) > KEPT_TEXTS:
            self._texts.popitem(last=False)
        return text

    def _on_device(self, drawn: Tensor) -> Tensor:
        """Host numbers -> device, without waiting for what runs there."""
        if self.device.type != "cuda":
            return drawn.to(self.device)
        return drawn.pin_memory().to(self.device, non_blocking=True)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16")

    def _refuse_misfit(self, values: np.ndarray, shape: tuple[int, ...]) -> None:
        if values.shape != shape or not 0 < len(values) <= self.settings.batch_size:
            raise ValueError(
                f"expected an array of shape {shape}, one row per prompt and at most {self.settings.batch_size}, got "
                f"{values.shape}"
            )

    def _rows_at_once(self) -> int:
        """Pictures that encoders and decoders take at once: their hundreds of channels at full size need much memory.
        It divides the batch, because a kernel chosen for another shape may give other numbers."""
        most = max(1, DECODE_PIXELS // self.bundle.image_size_px**2)
        return next(
            rows for rows in range(min(most, self.settings.batch_size), 0, -1) if self.settings.batch_size % rows == 0
        )

    def _padded(self, values: np.ndarray) -> np.ndarray:
        """(B, ...) -> (batch_size, ...), the last row again and again."""
        rows = np.minimum(np.arange(self.settings.batch_size), len(values) - 1)
        return values[rows]

    def _decode(self, latents: Joint) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents -> the four parts of `Pairs`, on the device."""
        encoders = self.bundle.encoders
        image = latent_to_image(encoders.image_vae, latents.image)
        logits = encoders.annotation_vae.decode(encoders.annotation_vae.denormalize(latents.mask))
        mask, confidence = classes_and_confidence(logits, encoders.labels, self.settings.confidence_threshold)
        finite = torch.stack([value.flatten(1).isfinite().all(1) for value in (*latents, image, logits)]).all(0)
        pixels = ((image.float().nan_to_num() + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        return pixels, mask, confidence, finite


def converted(net: JoDiffusion, device: torch.device, dtype: torch.dtype) -> JoDiffusion:
    """The network on a device, in a dtype and in evaluation mode; what need not change is shared with `net`."""
    tensors = {name: value.detach().to(device, dtype) for name, value in net.state_dict().items()}
    return assigned(lambda: JoDiffusion(net.config), tensors, where="the network itself").eval()


def classes_and_confidence(logits: Tensor, labels: LabelSpace, threshold: float) -> tuple[Tensor, Tensor]:
    """Class logits (B, K + 1, H, W) -> class ids (B, H, W), uint8 where they fit, and the top probabilities' 255ths
    (B, H, W) uint8.

    Pixels whose top probability is below `threshold` become background, as in the reference code, or the ignore index,
    as the label space says.
    """
    probability, mask = logits.float().softmax(1).max(1)
    uncertain = labels.ignore_index if labels.uncertain == "ignore" else 0
    mask = mask.to(torch.uint8 if labels.ignore_index <= 255 else torch.int32)
    mask = mask.masked_fill(~(probability >= threshold), uncertain)
    return mask, (probability.nan_to_num() * 255).round().to(torch.uint8)
