"""Captioner: pictures -> captions, by BLIP-2 or another model of transformers that captions without a conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from torch import Tensor

from models.precision import Precision
from models.weights import WeightsError

Result = TypeVar("Result")

KINDS = ("blip-2", "blip", "git", "vision-encoder-decoder")
CONTINUE_A_TEXT = ("blip-2", "blip")
TOP_P = 0.9
"""Sampled captions take their words from the likeliest ones that together have this probability."""


class Captioner:
    """A captioning network with what it needs around it.

    Args:
        net: a network of one of KINDS, in evaluation mode.
        image_processor: turns pictures into its input.
        tokenizer: of its texts.
    """

    def __init__(self, net: Any, image_processor: Any, tokenizer: Any) -> None:
        self.net, self.image_processor, self.tokenizer = net, image_processor, tokenizer

    @classmethod
    def load(
        cls, model: str, revision: str = "", precision: Precision = "bfloat16", device: str | torch.device = "cpu"
    ) -> Captioner:
        """Reads a model; nothing is unpickled, and no code of its authors runs.

        Args:
            model: name on the Hugging Face hub, or a folder.
            revision: branch, tag or commit on the hub; "" takes the newest.
            precision: of the network.
            device: to run on.

        Raises:
            WeightsError: no such model, not complete, or not a captioner; says how to correct it.
        """
        # Not above: the tasks that only write what it gave should not wait for it.
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

        commit = check_model(model, revision)
        if precision == "float32":
            torch.backends.cudnn.allow_tf32 = False  # else convolutions round to 10 bits on the way
        where: dict[str, Any] = {"revision": commit or "main", "trust_remote_code": False}
        # Pillow's processors need no torchvision, and are what BLIP-2 was trained and published with.
        image_processor = _reading(model, lambda: AutoImageProcessor.from_pretrained(model, backend="pil", **where))
        tokenizer = _reading(model, lambda: AutoTokenizer.from_pretrained(model, **where))
        net, found = _reading(
            model,
            lambda: AutoModelForImageTextToText.from_pretrained(
                model, dtype=getattr(torch, precision), use_safetensors=True, output_loading_info=True, **where
            ),
        )
        if missing := sorted(found["missing_keys"]):  # transformers would draw them at random
            raise WeightsError(
                f"{model}: its weights are not complete, missing {', '.join(missing[:5])}; fetch it again"
            )
        return cls(net.to(device).eval(), image_processor, tokenizer)

    @torch.inference_mode()
    def __call__(
        self,
        images: Sequence[np.ndarray],
        *,
        seeds: Sequence[int],
        num_captions: int = 1,
        max_new_tokens: int = 30,
        instruction: str = "",
    ) -> list[list[str]]:
        """Captions of each picture: the first is the likeliest word by word (greedy), the others are sampled.

        A row depends on its own picture and seed only, up to the rounding of batches of another size.

        Args:
            images: (H, W, 3) uint8, of any sizes.
            seeds: of each picture's sampled captions.
            num_captions: of each picture.
            max_new_tokens: a caption is cut off there.
            instruction: text that the caption continues; it is no part of the caption. For CONTINUE_A_TEXT only.
        """
        if not images:
            return []
        prepared = self.image_processor(list(images), return_tensors="pt", input_data_format="channels_last")
        pixels = prepared["pixel_values"].to(self.net.device, self.net.dtype)
        inputs = {"pixel_values": pixels, **self._text_inputs(instruction, len(images))}
        captions: list[list[str]] = [[] for _ in images]
        for number in range(num_captions):
            sample = [Nucleus([np.random.default_rng((seed, number)) for seed in seeds])] if number else []
            made = self.net.generate(
                **inputs, max_new_tokens=max_new_tokens, num_beams=1, do_sample=False, logits_processor=sample
            )
            for row, ids in enumerate(made.tolist()):
                captions[row].append(self._text(ids, instruction))
        return captions

    def _text_inputs(self, instruction: str, num: int) -> dict[str, Tensor]:
        """Token ids and attention mask (num, T) int64 of what comes before the caption; nothing where it has no
        instruction."""
        if not instruction:
            return {}
        config = self.net.config
        ids: list[int] = self.tokenizer(instruction)["input_ids"]
        if config.model_type == "blip-2":  # the picture stands before the text, in the place of these tokens
            ids = [config.image_token_id] * config.num_query_tokens + ids
        tokens = torch.tensor([ids] * num, device=self.net.device)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}

    def _text(self, ids: list[int], instruction: str) -> str:
        """The caption of a row of tokens: without the instruction, as the tokenizer spells it, and in single spaces."""
        text = self._decode(ids)
        if instruction:
            text = text.removeprefix(self._decode(self.tokenizer(instruction)["input_ids"]))
        return " ".join(text.split())

    def _decode(self, ids: list[int]) -> str:
        image_token = getattr(self.net.config, "image_token_id", None)
        return self.tokenizer.decode([one for one in ids if one != image_token], skip_special_tokens=True).strip()


class Nucleus:
    """A logits processor of transformers that makes greedy decoding sample: leaves each row the one word that its own
    generator picks of the nucleus (Holtzman et al., "The curious case of neural text degeneration"). With a generator
    per row, no row depends on its batch.

    Args:
        generators: one a row.
    """

    def __init__(self, generators: Sequence[np.random.Generator]) -> None:
        self.generators = generators

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Tokens so far (B, T) int64, and the logits of the next (B, V) -> the same, all but one -infinity a row."""
        share, order = scores.float().softmax(-1).sort(descending=True, stable=True)
        total = share.cumsum(-1)
        nucleus = (share * (total - share < TOP_P)).sum(-1, keepdim=True)
        drawn = np.array([generator.random() for generator in self.generators], np.float32)
        points = nucleus * torch.from_numpy(drawn).to(scores.device).unsqueeze(-1)
        picked = order.gather(-1, (total <= points).sum(-1, keepdim=True))
        return torch.full_like(scores, -torch.inf).scatter(-1, picked, 0.0)


def check_model(model: str, revision: str = "", instruction: str = "") -> str:
    """Reads a model's config, but none of its weights; returns its commit on the hub, "" for a folder.

    Raises:
        WeightsError: no such model, not a captioner, or one that takes no instruction.
    """
    from transformers import AutoConfig

    commit = ""
    if not Path(model).exists():  # the hub's cache names a snapshot by it
        path = _reading(model, lambda: hf_hub_download(model, "config.json", revision=revision or "main"))
        commit = Path(path).parent.name
    config = _reading(
        model, lambda: AutoConfig.from_pretrained(model, revision=commit or "main", trust_remote_code=False)
    )
    if config.model_type not in KINDS:
        raise WeightsError(f"{model} is a {config.model_type}, which is not a captioner; known are {', '.join(KINDS)}")
    if instruction and config.model_type not in CONTINUE_A_TEXT:
        raise WeightsError(f"{model} is a {config.model_type}, which takes no instruction; leave `instruction` empty")
    return commit


def _reading(model: str, read: Callable[[], Result]) -> Result:
    try:
        return read()
    except Exception as error:  # of the hub's HTTP library too, which changes with its releases
        reason = str(error).strip().partition("\n")[0]
        kind = "folder" if Path(model).is_dir() else "model on the Hugging Face hub, or folder"
        raise WeightsError(
            f"{model}: cannot be read as a {kind} with a captioner in safetensors ({reason}). Give a name such as "
            f"Salesforce/blip2-opt-2.7b; where there is no network, fetch it elsewhere with `hf download {model}` and "
            "give the folder's path"
        ) from error
