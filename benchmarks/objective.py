"""What each training objective does on the built-in data: which noise, what is predicted, what weighs how much.

`python -m benchmarks.objective` in one process, without Ray, behind the demo's training, whose pairs, latents and
encoders it takes (an hour a seed on one core; stop it at any time, the same command goes on). Each option trains the
same small network on the same latents, as often as there are seeds, and makes pairs of the same prompts with the same
seeds. The same segmenter is then trained on those alone and tested on real held-out pairs. Weights are averaged ones
throughout.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.clean_error import clean_errors
from benchmarks.objective_options import OPTIONS, changed, rescaled, with_statistics
from models.jodiffusion import JoDiffusion
from models.reverse import SamplerSettings, with_preset
from models.sampler import Pairs, PairSampler
from models.weights import Bundle, Encoders
from pipeline.base.command_line import load
from pipeline.base.log import log, set_up_logging
from pipeline.evaluation.agreement import prompt_match
from pipeline.evaluation.metrics import confusion_matrix, mean_and_spread, mean_iou
from pipeline.stages.refine import refine_masks
from pipeline.tables.ids import pair_seed, prompt_id, text_digest
from pipeline.tables.rows import read_shards
from pipeline.training.feed import Feed, to_tensors
from pipeline.training.loop import train
from pipeline.training.optimisation import Optimisation
from pipeline.training.state import TrainState
from pipeline.training.task import Task, Tensors
from pipeline.training.tasks.joint import JointConfig, JointTask, check_latents
from pipeline.training.tasks.segmenter import SegmenterTask

REAL = "real pairs"
GUIDANCE = 1.5
MIN_AREA_PX = 16
COLUMNS = {
    "miou": "synthetic-only mIoU",
    "agreement": "agreement",
    "exact_classes": "exactly the prompt's classes",
    "mask_error": "mask error",
    "image_error": "image error",
}


@dataclass(frozen=True)
class Data:
    """What all options share.

    Attributes:
        joint: the preset, with this benchmark's sizes.
        shapes: of the latents.
        encoders: of the demo.
        segmenter: that all pairs are judged by.
        latents, held_out: decoded training and validation latents.
        real: `image`, `mask` and `prompt` of real training pairs, as arrays.
        test: `image` and `mask` of real test pairs.
    """

    joint: JointConfig
    shapes: dict[str, tuple[int, ...]]
    encoders: Encoders
    segmenter: SegmenterTask
    latents: Tensors
    held_out: Tensors
    real: dict[str, Any]
    test: Tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments: tuple[tuple[str, Any, str], ...] = (
        ("runs", "runs", "where the demo was trained"),
        ("out", "runs/objective", "folder of the results"),
        ("config", "jobs/configs/demo/joint.yaml", "the preset"),
        ("examples", 96_000, "that each joint training sees"),
        ("patch-size", 4, "of the joint network"),
        ("heads", 2, "of the joint network"),
        ("layers", 4, "of the joint network"),
        ("rate", 3.0, "of the joint training, in learning rates of the preset"),
        ("pairs", 640, "that each option makes"),
        ("judge-pairs", 2048, "real pairs that the judge of agreement is trained on"),
        ("test-pairs", 1024, "real pairs that segmenters are tested on"),
        ("epochs", 16, "of every segmenter"),
        ("width", 24, "of every segmenter"),
        ("seeds", 3, "trainings of each option"),
    )
    for name, default, text in arguments:
        parser.add_argument(f"--{name}", default=default, type=type(default), help=text)
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of the names of the options to measure")
    options = parser.parse_args()
    set_up_logging()
    study(options)


def study(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures what is missing, one seed of all options after the other, and prints the table after each."""
    data = load_data(options)
    judge = the_judge(options, data)
    results: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for name in [REAL, *OPTIONS]:
            if options.only and not name.startswith(tuple(options.only)):
                continue
            path = result_path(options, name, seed)
            if path.exists():
                results.append(json.loads(path.read_text()))
                continue
            began = time.monotonic()
            if name == REAL:
                result: dict[str, Any] = {"miou": segmenter_score(options, data, real_pairs(data, options.pairs), seed)}
            else:
                result = measure(options, data, judge, name, seed)
            result |= {"option": name, "seed": seed, "seconds": round(time.monotonic() - began)}
            draft = path.with_suffix(".draft")
            draft.write_text(json.dumps(result, indent=1))
            os.replace(draft, path)
            log.info("%s, seed %d: %s", name, seed, json.dumps(result))
            results.append(result)
            print_table(results)
    return results


def load_data(options: argparse.Namespace) -> Data:
    """Reads all of it into memory."""
    runs = options.runs
    joint = load(
        JointConfig,
        options.config,
        {
            "train": (f"{runs}/latents-train",),
            "validation": f"{runs}/latents-validation",
            "net": {"patch_size": options.patch_size, "num_heads": options.heads, "num_layers": options.layers},
            "preview_prompts": ("",),
        },
    )
    recipe = joint.optimisation
    changes = {
        "num_examples": options.examples,
        "warmup_examples": options.examples // 10,
        "learning_rate": options.rate * recipe.learning_rate,
        "matrix_learning_rate": options.rate * recipe.matrix_learning_rate,
    }
    joint = joint.model_copy(update={"optimisation": recipe.model_copy(update=changes)})
    encoders = Encoders.load(f"{runs}/latents-train/encoders")
    shapes = check_latents(joint)
    task = JointTask(joint, "", "", shapes)
    feed = Feed(joint.train, task.columns, task.decode)
    pairs = SegmenterTask(encoders.labels, "unet_small", options.width)
    rows = read_shards([f"{runs}/real-train"], ["pair_id", "prompt", "image", "mask"]).sort_by("pair_id")
    rows = rows.slice(0, max(options.pairs, options.judge_pairs))
    real = pairs.decode({name: np.array(rows[name].to_pylist(), object) for name in ("image", "mask")})
    return Data(
        joint,
        shapes,
        encoders,
        pairs,
        feed.head(2**40),
        replace(feed, folders=(joint.validation,)).head(joint.validation_rows),
        {**real, "prompt": rows["prompt"].to_pylist()},
        Feed((f"{runs}/real-validation",), pairs.columns, pairs.decode).head(options.test_pairs),
    )


def measure(options: argparse.Namespace, data: Data, judge: nn.Module, name: str, seed: int) -> dict[str, Any]:
    """One option with one seed: trains the network, makes pairs, trains the segmenter on them."""
    changes = OPTIONS[name]
    config = changed(data.joint, changes)
    encoders, latents, held_out = data.encoders, data.latents, data.held_out
    if std := changes.get("mask_latent_std"):
        vae = encoders.annotation_vae
        encoders = replace(encoders, annotation_vae=with_statistics(vae, std))
        latents, held_out = (rescaled(rows, vae, encoders.annotation_vae) for rows in (latents, held_out))
    check_latents(config)
    task = JointTask(config, "", "", data.shapes)
    began = time.monotonic()
    net, losses = trained(task, latents, config.optimisation, seed)
    joint_net = cast(JoDiffusion, net)
    training_s = time.monotonic() - began
    errors = clean_errors(joint_net, config.diffusion, held_out)
    errors["mask"] /= held_out["mask_latent"].float().var().item()

    guidance = changes.get("guidance", GUIDANCE)
    bundle = Bundle(encoders, joint_net, config.diffusion, config.image_size_px, guidance, digest="")
    bundle.check(name)
    began = time.monotonic()
    prompts = data.real["prompt"][: options.pairs]
    pairs = sampled(bundle, prompts, seed)
    sampling_s = time.monotonic() - began
    labels = encoders.labels
    rows = pa.table({"prompt": prompts, "class_ids": [np.unique(mask).tolist() for mask in pairs.mask]})
    seen = data.segmenter.predict(judge, torch.from_numpy(pairs.image))
    return {
        "steps": config.optimisation.num_steps,
        "guidance": guidance,
        "miou": segmenter_score(options, data, {"image": pairs.image, "mask": pairs.mask}, seed),
        "agreement": mean_iou(confusion_matrix(pairs.mask, seen, labels.num_classes + 1, labels.ignore_index)),
        "exact_classes": prompt_match(rows, labels),
        "mask_error": errors["mask"],
        "image_error": errors["image"],
        "finite": float(pairs.finite.mean()),
        "last_losses": losses,
        "training_s": round(training_s),
        "sampling_s": round(sampling_s),
    }


def trained(task: Task, rows: Tensors, recipe: Optimisation, seed: int) -> tuple[nn.Module, dict[str, float]]:
    """Averaged weights after the whole training, and the mean losses of its last tenth."""
    torch.manual_seed(seed)
    net = task.build()
    state = TrainState(net, recipe)
    batches = shuffled(rows, recipe.batch_size, seed)
    last: list[dict[str, float]] = []
    for report in train(task, net, state, batches, recipe, seed=seed):
        if report.step > 0.9 * recipe.num_steps:
            parts = {name: part for name, part in report.losses.items() if "/" not in name}  # without those by time
            last.append({name: float(total / count) for name, (total, count) in parts.items()})
    return state.average, {name: float(np.mean([losses[name] for losses in last])) for name in last[0]}


def shuffled(rows: Tensors, batch_size: int, seed: int) -> Iterator[Tensors]:
    """Endless batches, every row once an epoch."""
    num_rows, waiting, epoch = len(next(iter(rows.values()))), np.empty(0, np.int64), 0
    while True:
        while len(waiting) < batch_size:
            waiting = np.concatenate([waiting, np.random.default_rng([seed, epoch]).permutation(num_rows)])
            epoch += 1
        chosen, waiting = torch.from_numpy(waiting[:batch_size]), waiting[batch_size:]
        yield {name: values[chosen] for name, values in rows.items()}


def sampled(bundle: Bundle, prompts: list[str], seed: int) -> Pairs:
    """Pairs of all prompts, with refined masks."""
    sampler = PairSampler(bundle, with_preset(SamplerSettings(batch_size=32), "fast"))
    parts = []
    for start in range(0, len(prompts), 32):
        chunk = prompts[start : start + 32]
        seeds = [pair_seed(seed, prompt_id(prompt), start + place) for place, prompt in enumerate(chunk)]
        parts.append(sampler(chunk, seeds))
    pairs = Pairs(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    ignore_index = bundle.encoders.labels.ignore_index
    refined = refine_masks({"mask": pairs.mask}, min_area_px=MIN_AREA_PX, ignore_index=ignore_index)
    return pairs._replace(mask=refined["mask"])


def trained_segmenter(task: SegmenterTask, pairs: dict[str, np.ndarray], epochs: float, seed: int) -> nn.Module:
    """A segmenter trained on pairs with the proof's recipe."""
    recipe = Optimisation(
        num_examples=max(32, round(len(pairs["mask"]) * epochs)),
        batch_size=32,
        learning_rate=3e-3,
        warmup_examples=32 * 20,
        decay_share=0.8,
        ema_decay=0.98,
    )
    net, _ = trained(task, to_tensors(pairs), recipe, seed)
    return net


def segmenter_score(options: argparse.Namespace, data: Data, pairs: dict[str, np.ndarray], seed: int) -> float:
    """mIoU on real test pairs of a segmenter trained on `pairs`."""
    net = trained_segmenter(data.segmenter, pairs, options.epochs, seed)
    with torch.no_grad():
        return data.segmenter.evaluate(net, data.test).metrics["miou"]


def the_judge(options: argparse.Namespace, data: Data) -> nn.Module:
    """The segmenter of real pairs that agreement is asked of, made once."""
    facts = [options.runs, options.judge_pairs, options.epochs, options.width]
    path = Path(options.out) / f"judge-{text_digest(facts)[:8]}.safetensors"
    if path.exists():
        net = data.segmenter.build()
        net.load_state_dict(load_file(path))
    else:
        net = trained_segmenter(data.segmenter, real_pairs(data, options.judge_pairs), options.epochs, 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        save_file({name: value.contiguous() for name, value in net.state_dict().items()}, draft)
        os.replace(draft, path)
    return net.eval()


def real_pairs(data: Data, num_pairs: int) -> dict[str, np.ndarray]:
    """The first real training pairs."""
    return {name: data.real[name][:num_pairs] for name in ("image", "mask")}


def result_path(options: argparse.Namespace, name: str, seed: int) -> Path:
    """Where a result lies, by all that it depends on, so that finished ones serve again and changed ones are new."""
    chosen = {key: value for key, value in vars(options).items() if key not in ("out", "only", "seeds")}
    words = "-".join("".join(letter if letter.isalnum() else " " for letter in name).split())
    return Path(options.out) / f"{words}-{seed}-{text_digest([chosen, OPTIONS.get(name, {})])[:8]}.json"


def print_table(results: list[dict[str, Any]]) -> None:
    """One row per option, in order; means and spreads over the seeds that there are."""
    headings = "option", "steps", "guidance", "seeds", *COLUMNS.values()
    print(f"\n| {' | '.join(headings)} |\n|---{'|--:' * (len(headings) - 1)}|")
    for name in dict.fromkeys(result["option"] for result in results):
        own = [result for result in results if result["option"] == name]
        cells = [name, str(own[0].get("steps", "")), str(own[0].get("guidance", "")), str(len(own))]
        for column in COLUMNS:
            known = [result[column] for result in own if column in result]
            form = "{:.1%} ± {:.1%}" if column == "exact_classes" else "{:.4f} ± {:.4f}"
            cells.append(form.format(*mean_and_spread(known)) if known else "")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
