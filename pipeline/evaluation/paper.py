"""The tables of the paper (JoDiffusion, AAAI 2026, tables 1 to 5): its figures, and ours beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.evaluation.metrics import mean_and_spread
from pipeline.evaluation.results import Proof

DatasetName = Literal["voc", "coco", "ade20k"]
REAL, SYNTHETIC, BOTH = "real", "synthetic", "real + synthetic"
SEGMENTED: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("voc", "deeplabv3_r50"): {REAL: 77.4, SYNTHETIC: 72.5, BOTH: 78.3},
    ("voc", "deeplabv3_r101"): {REAL: 79.9, SYNTHETIC: 75.8, BOTH: 80.7},
    ("voc", "mask2former_r50"): {REAL: 77.3, SYNTHETIC: 74.5, BOTH: 79.4},
    ("voc", "mask2former_swin_s"): {REAL: 83.8, BOTH: 85.1},
    ("coco", "deeplabv3_r50"): {REAL: 48.9, SYNTHETIC: 42.6, BOTH: 56.4},
    ("coco", "deeplabv3_r101"): {REAL: 54.9, SYNTHETIC: 44.9, BOTH: 59.1},
    ("coco", "mask2former_r50"): {REAL: 57.8, SYNTHETIC: 44.6, BOTH: 58.5},
    ("ade20k", "mask2former_r50"): {REAL: 47.2, BOTH: 48.4},
    ("ade20k", "mask2former_swin_s"): {REAL: 51.6, BOTH: 52.2},
}
"""Data set and segmenter -> mIoU in per cent by set (tables 2 and 3)."""
ANNOTATION_VAE: Mapping[str, float] = {"voc": 99.50}
"""Data set -> mIoU in per cent of masks that went through the annotation VAE (table 1)."""
THRESHOLDS: Mapping[int, float] = {0: 71.37, 20: 72.47}
"""Least area of a region in pixels -> mIoU in per cent on VOC, of DeepLabV3 on ResNet-50 that was trained on generated
pairs alone (table 4)."""
SIZES: Mapping[int, float] = {5_000: 68.54, 40_000: 72.47}
"""Generated pairs -> the same (table 5)."""
PAIRS: Mapping[str, int] = {"voc": 40_000}
"""Data set -> generated pairs that its figures are of, where that is known: on VOC tables 2, 4 and 5 agree there."""
DIFFERENCES = (
    "The paper's figures of real pairs for DeepLabV3 on VOC are those of mmsegmentation's models at several scales and "
    "mirrored (single scale: 76.17 and 78.70). Ours are of trainings of this run, at a single scale and at several.",
    "All sets here are trained for as many steps. The paper does not say so of its own.",
    "The paper's figures of generated pairs on VOC are of 40,000 of them, as those of its tables 2, 4 and 5 that agree "
    "tell; how many those on COCO and ADE20K are of is not known here.",
    "Pictures are taken as their middle square at the size of the crop, in training and in test; in the paper, test "
    "pictures are whole.",
    "Pixels without a known class count for nothing here, in Mask2Former's loss too, where published code takes them "
    "for negatives of every mask.",
    "Batch norms of Mask2Former's ResNet learn here; published recipes keep those that the weights come with.",
    "Generated pixels that the model is unsure of are background here, as in the paper, for VOC and COCO, and unknown "
    "for ADE20K.",
)
"""What differs in the protocol."""


@dataclass(frozen=True)
class Line:
    """A row of a table: a network and what it was trained on, the paper's figure and ours, in per cent.

    Attributes:
        network, trained_on: of the row.
        paper: mIoU that the paper gives; None where it gives none.
        miou: mean and spread of ours; None where it is not measured yet.
        several_scales: the same at several scales.
        steps, seeds, pairs: of ours; pairs that it was trained on.
    """

    network: str
    trained_on: str
    paper: float | None = None
    miou: tuple[float, float] | None = None
    several_scales: tuple[float, float] | None = None
    steps: int = 0
    seeds: int = 0
    pairs: int = 0


HEADS = ("network", "trained on", "pairs", "paper", "here, one scale", "here, several scales", "steps", "seeds")
"""Of the columns; `cells` gives a row of them."""


def lines_of(network: str, proof: Proof, figures: Mapping[str, float]) -> list[Line]:
    """The rows of a proof with the paper's figures of sets of the same names."""
    return [
        Line(
            network,
            row.name,
            figures.get(row.name),
            mean_and_spread([100 * value for value in row.miou]),
            mean_and_spread([100 * value for value in row.miou_multi_scale]) if row.miou_multi_scale else None,
            row.steps,
            len(row.miou),
            row.pairs,
        )
        for row in proof.sets
    ]


def markdown(title: str, lines: list[Line], warnings: list[str]) -> str:
    """The table, what speaks against its comparisons, and what differs from the paper's."""
    aligned = f"|---|---|{'--:|' * (len(HEADS) - 2)}"
    rows = [f"| {' | '.join(HEADS)} |", aligned, *(f"| {' | '.join(cells(one))} |" for one in lines)]
    mind = [line for text in warnings for line in ("", f"**Mind:** {text}.")]
    differences = [f"- {text}" for text in DIFFERENCES]
    head = [f"# {title}", "", "mIoU in per cent.", ""]
    return "\n".join([*head, *rows, *mind, "", "## What differs from the paper", "", *differences])


def cells(line: Line) -> list[str]:
    """What a row shows."""
    return [
        line.network,
        line.trained_on,
        f"{line.pairs:,}" if line.pairs else "",
        "" if line.paper is None else f"{line.paper:.2f}",
        *("" if one is None else _measured(line, *one) for one in (line.miou, line.several_scales)),
        f"{line.steps:,}" if line.steps else "",
        f"{line.seeds}" if line.seeds else "",
    ]


def _measured(line: Line, mean: float, spread: float) -> str:
    return f"{mean:.2f} ± {spread:.2f}" if line.seeds > 1 else f"{mean:.2f}"
