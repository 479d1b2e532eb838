"""What the image VAE alone costs a segmenter: real pairs as they are against the same ones through the VAE and back.

`python -m benchmarks.image_vae` in one process, without Ray, behind the demo's training, whose pairs and encoders it
takes (about seven minutes on two cores). The masks stay, so what is lost is what no joint network on these latents can
give.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from diffusers import AutoencoderKL

from benchmarks.objective import trained_segmenter
from models.frozen import image_to_latent, latent_to_image
from models.weights import Encoders
from pipeline.base.log import log, set_up_logging
from pipeline.evaluation.metrics import mean_and_spread
from pipeline.training.feed import Feed
from pipeline.training.tasks.pictures import chunks, to_float_image
from pipeline.training.tasks.segmenter import SegmenterTask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="runs", help="where the demo was trained")
    parser.add_argument("--pairs", default=2048, type=int, help="real pairs that segmenters are trained on")
    parser.add_argument("--test-pairs", default=1024, type=int, help="real pairs that they are tested on")
    parser.add_argument("--epochs", default=12.0, type=float, help="of every segmenter")
    parser.add_argument("--seeds", default=3, type=int, help="segmenters of each kind")
    options = parser.parse_args()
    set_up_logging()
    encoders = Encoders.load(f"{options.runs}/latents-train/encoders")
    task = SegmenterTask(encoders.labels, "unet_small", 24)
    real, test = (
        Feed((f"{options.runs}/{run}",), task.columns, task.decode).head(rows)
        for run, rows in (("real-train", options.pairs), ("real-test2", options.test_pairs))
    )
    back = through(encoders.image_vae, real["image"])
    changed = (back.float() - real["image"].float()).abs().mean().item()
    log.info("the image VAE changes a pixel by %.1f of 255 in the mean", changed)
    ratios = []
    for seed in range(options.seeds):
        found = []
        for image in (real["image"], back):
            pairs = {"image": image.numpy(), "mask": real["mask"].numpy()}
            net = trained_segmenter(task, pairs, options.epochs, seed)
            with torch.no_grad():
                found.append(task.evaluate(net, test).metrics["miou"])
        ratios.append(found[1] / found[0])
        log.info("seed %d: real %.4f, through the image VAE %.4f, ratio %.3f", seed, *found, ratios[-1])
    log.info("ratio %.3f +- %.3f", *mean_and_spread(ratios))


@torch.inference_mode()
def through(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> the same pictures as the VAE gives them back."""
    parts = [latent_to_image(vae, image_to_latent(vae, to_float_image(part))) for part in chunks(images)]
    pixels = [((part.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy() for part in parts]
    return torch.from_numpy(np.concatenate(pixels))


if __name__ == "__main__":
    main()
