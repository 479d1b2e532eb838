"""What the sampler's presets do to the pairs of the built-in data, in one run.

`python -m benchmarks.quality` (three hours on two cores; stop it at any time, the same command goes on). Each way makes
pairs of the same prompts with the same seeds; the same segmenter is trained on each set and tested on real held-out
pairs. Then the other directions: masks that the sampler finds for real images, and images that it makes for real masks.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from models.reverse import PRESETS, SamplerSettings, with_preset
from models.sampler import PairSampler
from models.weights import WEIGHTS, Bundle
from pipeline.base.config import Workers
from pipeline.base.log import set_up_logging
from pipeline.cluster.connection import cluster
from pipeline.evaluate import EvaluateConfig, evaluate
from pipeline.evaluation.agreement import prompt_match
from pipeline.evaluation.metrics import confusion_matrix, mean_and_spread, mean_iou
from pipeline.generate import GenerateConfig, generate
from pipeline.ingest import IngestConfig, ingest
from pipeline.stages.refine import Refine
from pipeline.tables.label_space import load_labels
from pipeline.tables.pairs import decode_pairs
from pipeline.tables.rows import read_shards
from pipeline.training.fit import WEIGHTS_FOLDER
from pipeline.training.sets import TrainingSet
from pipeline.training.tasks.segmenter import SegmenterTask

WAYS: dict[str, dict[str, Any]] = {
    "faithful": {"preset": "faithful"},
    "fast": {"preset": "fast"},
    "faithful-8": {"preset": "faithful", "sampler": {"guidance": 8.0}},
    "fast-8": {"preset": "fast", "sampler": {"guidance": 8.0}},
}
MIN_AREA_PX = 16
PICTURES, LABELLED = 12_288, "0:512"
"""What the bundle `garments` learned from: pictures of the built-in set, and the slice of them that has labels."""
COMPLETED = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="bundles/garments")
    parser.add_argument("--runs", default="runs/quality")
    parser.add_argument("--pairs", type=int, default=2048)
    parser.add_argument("--test-pairs", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3072)
    options = parser.parse_args()
    set_up_logging()
    print(
        f"{datetime.date.today()}  {platform.processor()}  {torch.get_num_threads()} threads  {' '.join(sys.orig_argv)}"
    )
    with cluster():
        measure(options)


def measure(options: argparse.Namespace) -> None:
    """Makes what is missing and prints the tables."""
    # Presets are chosen by these figures, so never on the pictures that proofs are tested on.
    real, test = f"{options.runs}/real", f"{options.runs}/validation"
    for folder, split, pairs in ((real, "train", PICTURES), (test, "validation", options.test_pairs)):
        ingest(IngestConfig(run=Path(folder).name, runs=options.runs, dataset="builtin2", split=split, pairs=pairs))
    speeds: dict[str, float] = {}
    for way, changes in WAYS.items():
        sampler = {"batch_size": 32, **changes.get("sampler", {})}
        generate(
            GenerateConfig(
                run=way,
                runs=options.runs,
                bundle=options.bundle,
                prompts=real,
                pairs=options.pairs,
                preset=changes["preset"],
                sampler=SamplerSettings(**sampler),
                refine=Refine(min_area_px=MIN_AREA_PX),
                workers=Workers(threads=2),
            )
        )
        speeds[way] = json.loads((Path(options.runs) / way / "throughput.json").read_text())["pairs_per_s"]
    config = EvaluateConfig(
        run="proof",
        runs=options.runs,
        sets={
            "real": TrainingSet(train=(real,), slices=(LABELLED,)),
            **{name: TrainingSet(train=(f"{options.runs}/{name}",)) for name in WAYS},
        },
        test=test,
        test_rows=options.test_pairs,
        generator_train=(real,),
        generator_slices=(LABELLED,),
        seeds=options.seeds,
        steps=options.steps,
        learning_rate=0.005,
        workers=Workers(threads=2),
    )
    proof = evaluate(config)
    labels = load_labels(real)
    print(f"\n{'trained on':12} {'pairs':>6} {'pairs/s':>8} {'mIoU':>16} {'of real':>8} {'prompt match':>13}")
    base, _ = mean_and_spread(proof.sets[0].miou)
    for one in proof.sets:
        mean, spread = mean_and_spread(one.miou)
        rows = read_shards(one.folders, ["pair_id", "prompt", "class_ids"])
        print(
            f"{one.name:12} {one.pairs:6} {speeds.get(one.name, math.nan):8.2f} {mean:.4f} +- {spread:.4f} "
            f"{mean / base:8.2f} {prompt_match(rows, labels):13.1%}"
        )
    task = SegmenterTask(labels, config.segmenter, config.width)
    judge = task.build()
    weights = Path(proof.sets[0].trainings[0]) / WEIGHTS_FOLDER / WEIGHTS
    judge.load_state_dict(load_file(weights))
    other_directions(options, test, task, judge.eval())


def other_directions(options: argparse.Namespace, test: str, task: SegmenterTask, judge: nn.Module) -> None:
    """Real images -> masks, scored against the true ones; real masks -> images, in which the judge, a segmenter trained
    on real pairs, should see the masks."""
    labels = task.labels
    rows = read_shards([test], ["pair_id", "prompt", "image", "mask"]).sort_by("pair_id").slice(0, COMPLETED)
    decoded = decode_pairs({name: np.array(rows[name].to_pylist(), object) for name in ("image", "mask")})
    prompts, images, masks = rows["prompt"].to_pylist(), decoded["image"], decoded["mask"]
    torch.set_num_threads(2)

    def score(found: np.ndarray) -> float:
        return mean_iou(confusion_matrix(masks, found, labels.num_classes + 1, labels.ignore_index))

    print(f"\n{len(rows)} real test pairs, mIoU with the true masks")
    print(f"{'the judge on the real images':60} {score(task.predict(judge, torch.from_numpy(images))):.4f}")
    bundle = Bundle.load(options.bundle)
    for preset in PRESETS:
        settings = with_preset(SamplerSettings(batch_size=32), preset)
        sampler = PairSampler(bundle, settings)
        parts = [slice(start, start + 32) for start in range(0, len(rows), 32)]
        found = [sampler.masks_of(images[part], prompts[part], range(len(prompts[part]))).mask for part in parts]
        print(f"{f'masks of real images, {preset}':60} {score(np.concatenate(found)):.4f}")
        made = [sampler.images_of(masks[part], prompts[part], range(len(prompts[part]))).image for part in parts]
        seen = task.predict(judge, torch.from_numpy(np.concatenate(made)))
        print(f"{f'the judge on images of real masks, {preset}':60} {score(seen):.4f}")


if __name__ == "__main__":
    main()
