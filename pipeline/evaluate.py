"""Evaluate: how good a segmenter becomes on real pictures when it trained on real pairs, on synthetic ones, on both."""

from __future__ import annotations

import math

import torch
from pydantic import Field, field_validator, model_validator

from models.segmenters import SegmenterName
from pipeline.base.config import Workers
from pipeline.base.errors import DataError
from pipeline.base.log import log
from pipeline.base.places import Folder, NameOrPlace, as_given
from pipeline.evaluation.agreement import agreement, prompt_match
from pipeline.evaluation.metrics import mean_and_spread
from pipeline.evaluation.results import FILE, HeldOut, Proof, TrainedSet
from pipeline.runs.config import RunConfig, checked_name
from pipeline.runs.run import Run
from pipeline.storage.publish import write_bytes
from pipeline.tables.ids import text_digest
from pipeline.tables.label_space import common_labels
from pipeline.tables.rows import read_shards
from pipeline.tables.shards import list_shards
from pipeline.training.config import TrainingConfig
from pipeline.training.fit import WEIGHTS_FOLDER, fit
from pipeline.training.tasks.recipes import Style, recipe_of
from pipeline.training.tasks.segmenter import SegmenterTask


class EvaluateConfig(RunConfig):
    """Trains the same segmenter on several sets of pairs and tests each on real held-out pairs."""

    sets: dict[str, tuple[Folder, ...]] = Field(min_length=1)
    """Name of each set -> folders of its runs. The first is what the others are compared with: name it "real"."""
    test: Folder
    """Folder of a run with real held-out pairs."""
    test_rows: int = Field(1024, ge=1)
    """Pairs of it to test on."""
    judged: Folder = ""
    """Folder of synthetic pairs whose masks are compared with what the segmenter of the first set sees in the images,
    and with the classes that their prompts name; empty leaves both out."""
    seeds: int = Field(1, ge=1)
    """Trainings per set."""
    epochs: float = Field(24, gt=0)
    """Times that a training on the first set sees each of its pairs; those on the other sets take as many steps, since
    rows of different steps cannot be compared."""
    segmenter: SegmenterName = "unet_small"
    """The network."""
    width: int = Field(24, ge=4)
    """Channels of its stem."""
    size_px: int = Field(0, ge=0)
    """Side at which the middle of every picture is taken; 0 takes them as they are, all of one size."""
    pretrained: NameOrPlace = ""
    """Weights that segmenters other than unet_small begin with: a backbone or a whole network, as a file, a folder or a
    name on the Hugging Face hub; drawn at random without it."""
    crop_px: int = Field(512, ge=32)
    """Side of the crops that segmenters other than unet_small learn from, of pictures at half to twice this size."""
    recipe: Style = "published"
    """Whose recipe: "published" is that of the segmenter's authors or of mmsegmentation, "dataset_diffusion" another of
    deeplabv3."""
    multi_scale: bool = False
    """Test also at several scales, mirrored and not; the predictions are averaged."""
    batch_size: int = Field(0, ge=0)
    """Pairs per optimiser step; 0 takes the recipe's, 32 for unet_small."""
    learning_rate: float = Field(0.0, ge=0)
    """Peak of the learning rate; 0 takes the recipe's, 0.003 for unet_small."""
    workers: Workers = Workers()
    """Training processes."""

    @field_validator("sets")
    @classmethod
    def _named_sets(cls, sets: dict[str, tuple[Folder, ...]]) -> dict[str, tuple[Folder, ...]]:
        for name in sets:
            checked_name(name)  # the trainings are runs of these names
        return sets

    @model_validator(mode="after")
    def _segmenter_has_it(self) -> EvaluateConfig:
        recipe_of(self.segmenter, style=self.recipe)
        if self.pretrained and self.segmenter == "unet_small":
            raise ValueError("segmenter unet_small has no pre-trained weights: leave `pretrained` out, or take another")
        return self


def evaluate(config: EvaluateConfig) -> Proof:
    """Trains what is missing and writes `<run>/proof.json`; returns its content."""
    with Run.open(config, "evaluate", frozenset(EvaluateConfig.model_fields)) as run:
        labels = common_labels([config.test, *(folder for folders in config.sets.values() for folder in folders)])
        task = SegmenterTask(
            labels,
            config.segmenter,
            config.width,
            config.size_px,
            pretrained=config.pretrained,
            augmentation=recipe_of(config.segmenter, crop_px=config.crop_px).augmentation,
            multi_scale=config.multi_scale,
        )
        num_first = len(read_shards(next(iter(config.sets.values())), ["pair_id"]))
        proof = Proof(
            test=HeldOut(folder=as_given(config.test), pairs=config.test_rows),
            seeds=list(range(config.seeds)),
            classes=list(labels.classes),
            sets=[trained(config, task, name, num_first, run) for name in config.sets],
        )
        if config.judged:
            rows = read_shards([config.judged], ["pair_id", "prompt", "image", "mask", "class_ids"])
            first = proof.sets[0]
            net = task.load(training(config, first.name, num_first, seed=0).folder / WEIGHTS_FOLDER)
            found = agreement(
                rows,
                labels,
                decode=task.decode,
                predict=lambda images: task.predict(net, torch.from_numpy(images)),
                judge=first.name,
                on=as_given(config.judged),
            )
            match = prompt_match(rows, labels)
            log.info("masks agree with the segmenter of %s: mIoU %.4f", first.name, found.miou)
            log.info("masks that hold exactly the classes of their prompts: %.1f %%", 100 * match)
            proof = proof.model_copy(update={"agreement": found, "prompt_match": {as_given(config.judged): match}})
        write_bytes(f"{run.folder}/{FILE}", proof.model_dump_json(indent=1).encode())
        run.tracker.artifact(run.folder / FILE)
        return proof


def trained(config: EvaluateConfig, task: SegmenterTask, name: str, num_first: int, run: Run) -> TrainedSet:
    """The row of one set: trains what is missing of its segmenters.

    Raises:
        DataError: no pixel of the held-out masks has a known class.
    """
    num_pairs = len(read_shards(config.sets[name], ["pair_id"]))
    trainings = [training(config, name, num_first, seed) for seed in range(config.seeds)]
    scores = []
    for one in trainings:
        with Run.open(one, "segmenter") as inner:
            scores.append(fit(task, one, inner))
    miou = [score["miou"] for score in scores]
    if any(map(math.isnan, miou)):
        raise DataError(
            f"{as_given(config.test)}: no pixel of the held-out masks has a known class, so nothing can be scored; "
            "give the folder of pairs with annotated masks as `test`"
        )
    mean, spread = mean_and_spread(miou)
    log.info("segmenter trained on %s (%d pairs): mIoU %.4f +- %.4f", name, num_pairs, mean, spread)
    run.tracker.metrics({f"miou/{name}": mean, f"miou_spread/{name}": spread})
    return TrainedSet(
        name=name,
        folders=list(map(as_given, config.sets[name])),
        pairs=num_pairs,
        steps=trainings[0].optimisation.num_steps,
        miou=miou,
        miou_multi_scale=[score["miou_multi_scale"] for score in scores] if config.multi_scale else [],
        iou={key: [score.get(f"iou/{key}") for score in scores] for key in task.labels.classes},
    )


def training(config: EvaluateConfig, name: str, num_pairs: int, seed: int) -> TrainingConfig:
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
        optimisation=recipe_of(config.segmenter, style=config.recipe).optimisation(
            round(num_pairs * config.epochs), config.batch_size, config.learning_rate
        ),
    )
    shards = [path.rsplit("/", 1)[-1] for folder in (*chosen.train, chosen.validation) for path in list_shards(folder)]
    network: list[object] = [config.segmenter, config.width, *([config.size_px] if config.size_px else [])]
    if config.segmenter != "unet_small":
        network += [config.pretrained, config.crop_px]
    if config.multi_scale:
        network.append("multi_scale")
    content = text_digest([shards, network, chosen.validation_rows, chosen.optimisation.dump()])
    return chosen.model_copy(update={"run": f"{config.run}/{name}-{seed}-{content[:8]}"})
