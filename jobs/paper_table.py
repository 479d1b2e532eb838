"""Measure a table of the paper anew: its networks on your real and generated pairs, with its figures beside."""

from __future__ import annotations

import json
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jobs import command
from models.labels import LabelSpace
from models.segmenters import SegmenterName, build_segmenter
from pipeline.base.config import Config, Workers
from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.base.places import Folder, NameOrPlace, as_given
from pipeline.cluster.connection import cluster
from pipeline.evaluate import EvaluateConfig, evaluate
from pipeline.evaluation import paper
from pipeline.pages.paper_page import render
from pipeline.refine import RefineConfig, refine
from pipeline.runs.config import RunConfig, saved_config
from pipeline.stages.refine import Refine
from pipeline.storage.files import is_file, read_bytes
from pipeline.storage.publish import write_bytes
from pipeline.tables.label_space import is_same, load_labels
from pipeline.training.needs import PASSES
from pipeline.training.order import ids_of
from pipeline.training.sets import TrainingSet
from pipeline.training.worker import SCORES

TABLE, PAGE = "table.md", "table.html"


class Trained(Config):
    """One segmenter of a table."""

    steps: int = Field(ge=1)
    """Optimiser steps."""
    pretrained: NameOrPlace = ""
    """Weights to begin with; without them, figures are far below published ones."""
    batch_size: int = Field(0, ge=0)
    """Pairs per step; 0 takes the recipe's."""


class PaperTableConfig(RunConfig):
    """Trains what a table of the paper compares, one proof for each segmenter, and writes the table."""

    table: Literal[1, 2, 3, 4, 5]
    """1: annotation VAE; 2 and 3: segmenters on real pairs, generated ones and both; 4: thresholds of mask
    optimisation; 5: numbers of generated pairs."""
    dataset: paper.DatasetName
    """Whose figures stand beside."""
    annotation_vae: Folder = ""
    """Table 1: folder of a run of jobs.train_vae with net annotation."""
    real: tuple[Folder, ...] = ()
    """Runs of real pairs to train on."""
    synthetic: tuple[Folder, ...] = ()
    """Runs of generated pairs; for table 4 one that was not refined (--refine.min-area-px 0)."""
    test: Folder = ""
    """Run of real held-out pairs."""
    test_rows: int = Field(5000, ge=1)
    """Pairs of it to test on."""
    segmenters: dict[SegmenterName, Trained] = Field(default_factory=dict)
    """Networks, with their steps and weights."""
    thresholds: tuple[int, ...] = (0, 20, 50, 100)
    """Table 4: least areas of a region, in pixels."""
    sizes: tuple[int, ...] = (5_000, 10_000, 20_000, 40_000)
    """Table 5: numbers of generated pairs."""
    crop_px: int = Field(512, ge=32)
    """Side of crops, and of the middle squares of test pictures."""
    generator_labels: int = Field(0, ge=0)
    """Labelled pairs that the generator learned from."""
    seeds: int = Field(3, ge=1)
    """Trainings of each."""
    multi_scale: bool = True
    """Test at several scales too."""
    plan_only: bool = False
    """Say what it would take, and start nothing."""
    tflops: float = Field(40.0, gt=0)
    """Floating-point operations, in 10^12, that one of your GPUs does in a second in such trainings: about 40 for an
    A100 and 80 for an H100, by estimate."""
    workers: Workers = Workers()
    """Training processes."""

    @field_validator("segmenters")
    @classmethod
    def _without_own_names(cls, found: dict[SegmenterName, Trained]) -> dict[SegmenterName, Trained]:
        if "unet_small" in found:
            raise ValueError("unet_small is no network of the paper; jobs.evaluate trains it")
        return found

    def needed(self) -> None:
        """Raises ConfigError where a key is missing that the table needs."""
        wanted = ["annotation_vae"] if self.table == 1 else ["synthetic", "test", "segmenters"]
        wanted += ["real"] if self.table in (2, 3) else []
        if missing := [key for key in wanted if not getattr(self, key)]:
            raise ConfigError(f"table {self.table} needs the keys {', '.join(missing)}")


def main(config: PaperTableConfig) -> None:
    config.needed()
    title = f"Table {config.table}, {config.dataset}"
    if config.table == 1:
        line, warnings = judged_vae(config)
        write(config, title, [line], warnings)
        return
    for folder in (*config.real, *config.synthetic, config.test):
        require_labels(config, folder)
    hours = sum(config.seeds * num_sets(config) * plan(config, name, one) for name, one in config.segmenters.items())
    log.info("%s: about %.0f GPU-hours in all at %g TFLOP/s", title, hours, config.tflops)
    warnings = tell_of_pairs(config)
    if config.plan_only:
        return
    for name, one in config.segmenters.items():  # all, before the first is trained: that may take days
        common_of(config, name, one).check_pretrained(load_labels(config.synthetic[0]))
    with cluster():
        lines: list[paper.Line] = []
        for name, one in config.segmenters.items():
            proof = evaluate(proof_of(config, name, one))
            lines += paper.lines_of(name, proof, figures(config, name))
            warnings = list(dict.fromkeys([*warnings, *proof.warnings]))
            write(config, title, lines, warnings)  # after each: it takes days


def judged_vae(config: PaperTableConfig) -> tuple[paper.Line, list[str]]:
    """The row of table 1, and what speaks against it.

    Raises:
        ConfigError: no run of jobs.train_vae with net annotation, one that has not ended, or of other classes.
    """
    folder = config.annotation_vae
    saved = saved_config(folder)
    if (saved.get("job"), saved.get("net")) != ("train_vae", "annotation"):
        raise ConfigError(f"annotation_vae: {as_given(folder)} is no run of jobs.train_vae with net annotation")
    if not is_file(f"{folder}/{SCORES}"):
        raise ConfigError(
            f"annotation_vae: the training {as_given(folder)} has not ended; give its command to jobs.train_vae again"
        )
    held_out = saved["validation"]
    require_labels(config, held_out)
    scores = json.loads(read_bytes(f"{folder}/{SCORES}"))
    there, taken = len(ids_of(held_out, saved.get("validation_slice") or ":", "labelled")), saved["validation_rows"]
    warnings = [
        f"the annotation VAE was judged on {taken:,} of {there:,} masks of {held_out}: train it with validation_rows "
        f"{there} to judge it on all"
    ]
    figure = paper.ANNOTATION_VAE.get(config.dataset)
    line = paper.Line("annotation VAE", "masks", figure, (100 * scores["miou"], 0.0), seeds=1)
    return line, warnings if taken < there else []


def require_labels(config: PaperTableConfig, folder: str) -> None:
    """Raises ConfigError where the masks of a run are not of the classes that the paper's figures are of."""
    if not is_same(load_labels(folder), LabelSpace.named(config.dataset)):
        raise ConfigError(
            f"dataset: the masks of {as_given(folder)} have other classes than {config.dataset}, or another ignore "
            "index or meaning of 0, so that the paper's figures must not stand beside them; give runs of that data set"
        )


def tell_of_pairs(config: PaperTableConfig) -> list[str]:
    """Warns where the paper's figures are of another number of generated pairs; returns what it said."""
    asked = paper.PAIRS.get(config.dataset, 0)
    num = sum(TrainingSet(train=config.synthetic).sizes())
    if config.table == 5 or not asked or num == asked:
        return []
    told = f"the paper's figures are of {asked:,} generated pairs, these of {num:,}"
    log.warning("%s; jobs.generate --pairs %d makes as many", told, asked)
    return [told]


def num_sets(config: PaperTableConfig) -> int:
    """Rows of a network."""
    return {4: len(config.thresholds), 5: len(config.sizes)}.get(config.table, 3)


def plan(config: PaperTableConfig, name: SegmenterName, one: Trained) -> float:
    """Says what a training takes; gives its hours of one GPU."""
    evaluation = common_of(config, name, one)
    batch_size = evaluation.terms(evaluation.sets["real"]).optimisation().batch_size
    outputs = load_labels(config.synthetic[0]).num_classes + 1
    with torch.device("meta"):
        net = build_segmenter(name, outputs).eval()
    # The forward pass alone, where `training_work` takes the loss: a Mask2Former's asks for values, others for a batch.
    # Numbers are never made. Attention is counted as the products that it is; the CPU's own kernel would not be.
    fake, exact = FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH)
    counter = FlopCounterMode(display=False)
    with fake, exact, counter, torch.no_grad():
        # On a device: tensors that Mask2Former makes as it looks at a picture do not lie on "meta".
        net.to_empty(device="cpu")(torch.empty(1, 3, config.crop_px, config.crop_px))
    work = PASSES * counter.get_total_flops() * batch_size * one.steps
    hours = work / (config.tflops * 1e12) / 3600
    log.info(
        "%s: %d sets, %d seeds, %s steps of %d: %.1f GPU-hours for each training (%.0f PFLOP)",
        name, num_sets(config), config.seeds, f"{one.steps:,}", batch_size, hours, work / 1e15,
    )  # fmt: skip
    return hours


def common_of(config: PaperTableConfig, name: SegmenterName, one: Trained) -> EvaluateConfig:
    """What all trainings of a network have in common, with a set that stands for all."""
    return EvaluateConfig.model_validate(values_of(config, name, one, {"real": TrainingSet(train=config.synthetic)}))


def figures(config: PaperTableConfig, name: SegmenterName) -> dict[str, float]:
    """The paper's, by the names of sets."""
    if config.table in (2, 3):
        return dict(paper.SEGMENTED.get((config.dataset, name), {}))
    if (config.dataset, name) != ("voc", "deeplabv3_r50"):
        return {}
    if config.table == 4:
        return {threshold_name(area_px): miou for area_px, miou in paper.THRESHOLDS.items()}
    return {size_name(num): miou for num, miou in paper.SIZES.items()}


def threshold_name(area_px: int) -> str:
    """Of a set of table 4."""
    return f"threshold {area_px} px"


def size_name(num: int) -> str:
    """Of a set of table 5."""
    return f"{num:,} pairs"


def proof_of(config: PaperTableConfig, name: SegmenterName, one: Trained) -> EvaluateConfig:
    """What is to be trained; for table 4, masks are refined first."""
    sets: dict[str, TrainingSet] = {}
    if config.table == 4:
        for area_px in config.thresholds:
            made = tuple(refined(config, folder, area_px) for folder in config.synthetic)
            sets[threshold_name(area_px)] = TrainingSet(train=made)
    elif config.table == 5:
        if len(config.synthetic) > 1:
            raise ConfigError("table 5 takes parts of one run of generated pairs; give one folder as synthetic")
        for num in config.sizes:
            sets[size_name(num)] = TrainingSet(train=config.synthetic, slices=(f"0:{num}",))
    else:
        sets = {
            paper.REAL: TrainingSet(train=config.real),
            paper.SYNTHETIC: TrainingSet(train=config.synthetic),
            paper.BOTH: TrainingSet(train=(*config.real, *config.synthetic)),
        }
    return EvaluateConfig.model_validate(values_of(config, name, one, sets))


def values_of(
    config: PaperTableConfig, name: SegmenterName, one: Trained, sets: dict[str, TrainingSet]
) -> dict[str, object]:
    """Those of the proof of a network."""
    return {
        "run": f"{config.run}/{name}",
        "runs": config.runs,
        "experiment": config.experiment,
        "tracking_uri": config.tracking_uri,
        "sets": sets,
        "test": config.test,
        "test_rows": config.test_rows,
        "same_pictures": "warn",  # published splits hold some copies, and are what everybody compares with
        "generator_labels": config.generator_labels,
        "seeds": config.seeds,
        "steps": one.steps,
        "segmenter": name,
        "pretrained": one.pretrained,
        "batch_size": one.batch_size,
        "size_px": config.crop_px,
        "crop_px": config.crop_px,
        "multi_scale": config.multi_scale,
        "workers": config.workers,
    }


def refined(config: PaperTableConfig, folder: str, area_px: int) -> str:
    """The folder of a run's pairs with refined masks."""
    changes = RefineConfig(
        run=f"{config.run}/{folder.rstrip('/').rsplit('/', 1)[-1]}-{area_px}px",
        runs=config.runs,
        experiment=config.experiment,
        tracking_uri=config.tracking_uri,
        pairs=folder,
        refine=Refine(min_area_px=area_px),
    )
    refine(changes)
    return str(changes.folder)


def write(config: PaperTableConfig, title: str, lines: list[paper.Line], warnings: list[str]) -> None:
    """The table so far, as Markdown and as a page."""
    for name, text in ((TABLE, paper.markdown(title, lines, warnings)), (PAGE, render(title, lines, warnings))):
        write_bytes(f"{config.folder}/{name}", f"{text}\n".encode())
    log.info("table: %s/%s, page: %s", config.folder, TABLE, PAGE)


if __name__ == "__main__":
    command(main, PaperTableConfig)
