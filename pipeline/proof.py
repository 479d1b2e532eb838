"""Proof: how good a segmenter becomes on real pictures when it trained on real pairs, on synthetic ones, on both."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from safetensors.torch import load_file

from models.labels import LabelSpace
from models.segmenters import SegmenterName
from models.weights import WEIGHTS
from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.evaluation import confusion_matrix, mean_and_spread, mean_iou
from pipeline.prompts.classes import classes_in_prompt
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.tables.ids import text_digest
from pipeline.tables.label_space import common_labels
from pipeline.tables.rows import read_shards
from pipeline.tables.shards import list_shards
from pipeline.training.config import TrainingConfig
from pipeline.training.fit import WEIGHTS as WEIGHTS_FOLDER
from pipeline.training.fit import fit
from pipeline.training.loop import Optimisation
from pipeline.training.segmenter import SegmenterTask

MAX_JUDGED = 2048


class ProofConfig(RunConfig):
    """Trains the same segmenter on several sets of pairs and tests each on real held-out pairs."""

    sets: dict[str, tuple[str, ...]] = Field(min_length=1)
    """Name of each set -> folders of its runs. The first is what the others are compared with: name it "real"."""
    test: str
    """Folder of a run with real held-out pairs."""
    test_rows: int = Field(1024, ge=1)
    """Pairs of it to test on."""
    judged: str = ""
    """Folder of synthetic pairs whose masks are compared with what the segmenter of the first set sees in the images,
    and with the classes that their prompts name; empty leaves both out."""
    seeds: int = Field(1, ge=1)
    """Trainings per set."""
    epochs: float = Field(24, gt=0)
    """Times that a training sees each pair of its set; a set twice as large trains twice as long."""
    segmenter: SegmenterName = "unet_small"
    """The network."""
    width: int = Field(24, ge=4)
    """Channels of its stem."""
    size_px: int = Field(0, ge=0)
    """Side at which the middle of every picture is taken; 0 takes them as they are, all of one size."""
    batch_size: int = Field(32, ge=1)
    """Pairs per optimiser step."""
    learning_rate: float = Field(3e-3, gt=0)
    """Peak of AdamW."""
    workers: Workers = Workers()
    """Training processes."""


def train_segmenters(config: ProofConfig) -> dict[str, Any]:
    """Trains what is missing and writes `<run>/proof.json`; returns its content."""
    with Run.open(config, "train_segmenter", frozenset(ProofConfig.model_fields)) as run:
        labels = common_labels([config.test, *(folder for folders in config.sets.values() for folder in folders)])
        task = SegmenterTask(labels, config.segmenter, config.width, config.size_px)
        sets: list[dict[str, Any]] = []
        for name, folders in config.sets.items():
            num_pairs = len(read_shards(folders, ["pair_id"]))
            trainings = [training(config, name, num_pairs, seed) for seed in range(config.seeds)]
            scores = []
            for one in trainings:
                with Run.open(one, "segmenter") as inner:
                    scores.append(fit(task, one, inner))
            mean, spread = mean_and_spread([score["miou"] for score in scores])
            log.info("segmenter trained on %s (%d pairs): mIoU %.4f +- %.4f", name, num_pairs, mean, spread)
            run.tracker.metrics({f"miou/{name}": mean, f"miou_spread/{name}": spread})
            sets.append(
                {
                    "name": name,
                    "folders": list(folders),
                    "pairs": num_pairs,
                    "steps": trainings[0].optimisation.num_steps,
                    "miou": [score["miou"] for score in scores],
                    "iou": {key: [score[f"iou/{key}"] for score in scores] for key in labels.classes},
                }
            )
        proof: dict[str, Any] = {
            "test": {"folder": config.test, "pairs": config.test_rows},
            "seeds": list(range(config.seeds)),
            "classes": list(labels.classes),
            "sets": sets,
        }
        if config.judged:
            judge = next(iter(config.sets))
            judges = training(config, judge, sets[0]["pairs"], seed=0).folder
            proof |= judgement(config, task, judge, judges / WEIGHTS_FOLDER / WEIGHTS)
        draft = run.folder / "proof.json.draft"
        draft.write_text(json.dumps(proof, indent=1))
        os.replace(draft, run.folder / "proof.json")
        run.tracker.artifact(run.folder / "proof.json")
        return proof


def training(config: ProofConfig, name: str, num_pairs: int, seed: int) -> TrainingConfig:
    """The training of one set with one seed. Its run is named by all that it depends on, the shards among them, so that
    finished ones serve again and changed ones are made anew."""
    chosen = TrainingConfig(
        run="unnamed",
        runs=config.runs,
        seed=seed,
        experiment=config.experiment,
        tracking_uri=config.tracking_uri,
        train=config.sets[name],
        validation=config.test,
        validation_rows=config.test_rows,
        workers=config.workers,
        checkpoint_examples=max(1, round(num_pairs * config.epochs)),
        optimisation=Optimisation(
            num_examples=max(config.batch_size, round(num_pairs * config.epochs)),
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            warmup_examples=config.batch_size * 20,
            decay_share=0.8,
            ema_decay=0.98,
        ),
    )
    shards = [path.rsplit("/", 1)[-1] for folder in (*chosen.train, chosen.validation) for path in list_shards(folder)]
    network = [config.segmenter, config.width, *([config.size_px] if config.size_px else [])]
    content = text_digest([shards, network, chosen.validation_rows, chosen.optimisation.dump()])
    return chosen.model_copy(update={"run": f"{config.run}/{name}-{seed}-{content[:8]}"})


def judgement(config: ProofConfig, task: SegmenterTask, judge: str, weights: Path) -> Mapping[str, Any]:
    """What a segmenter, the first of the set `judge`, and the prompts say of the judged masks."""
    net = task.build()
    net.load_state_dict(load_file(weights))
    net.eval()
    rows = read_shards([config.judged], ["pair_id", "prompt", "image", "mask", "class_ids", "origin"])
    rows = rows.sort_by("pair_id")
    shown = rows.slice(0, MAX_JUDGED)
    encoded = {name: np.array(shown[name].to_pylist(), object) for name in ("image", "mask")}
    decoded = task.decode(encoded)
    confusion = confusion_matrix(
        decoded["mask"],
        task.predict(net, torch.from_numpy(decoded["image"])),
        task.labels.num_classes + 1,
        task.labels.ignore_index,
    )
    agreement = {
        "judge": judge,
        "on": config.judged,
        "miou": mean_iou(confusion),
        "pixel_accuracy": float(np.diag(confusion).sum() / confusion.sum()),
    }
    match = prompt_match(rows, task.labels)
    log.info("masks agree with the segmenter of %s: mIoU %.4f", judge, agreement["miou"])
    log.info("masks that hold exactly the classes of their prompts: %.1f %%", 100 * match)
    return {"agreement": agreement, "prompt_match": {config.judged: match}}


def prompt_match(rows: pa.Table, labels: LabelSpace) -> float:
    """Share of rows whose mask holds exactly the classes that the prompt names, background and unknown pixels aside;
    rows whose prompt names none do not count.

    Raises:
        ConfigError: no row names a class.
    """
    hits = total = 0
    for prompt, ids in zip(rows["prompt"].to_pylist(), rows["class_ids"].to_pylist(), strict=True):
        named = classes_in_prompt(prompt or "", labels)
        if named:
            total += 1
            hits += set(named) == {class_id for class_id in ids if class_id not in (0, labels.ignore_index)}
    if not total:
        raise ConfigError("no prompt of the judged pairs names a class of the label space; leave `judged` empty")
    return hits / total
