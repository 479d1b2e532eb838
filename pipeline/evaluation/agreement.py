"""What a segmenter, and the prompts, say of generated masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from models.labels import LabelSpace
from pipeline.base.errors import ConfigError
from pipeline.evaluation.metrics import confusion_matrix, mean_iou, pixel_accuracy
from pipeline.evaluation.results import Agreement
from pipeline.prompts.classes import classes_in_prompt
from pipeline.tables.conform import object_column
from pipeline.tables.ids import labelled_pair_id
from pipeline.tables.schema import Batch

MAX_JUDGED = 2048


def agreement(
    rows: pa.Table,
    labels: LabelSpace,
    *,
    decode: Callable[[Batch], Batch],
    predict: Callable[[np.ndarray], np.ndarray],
    judge: str,
    on: str,
    real: np.ndarray | None = None,
) -> Agreement:
    """How well the masks of the first MAX_JUDGED of `rows`, in the order of ids, agree with a segmenter's.

    Args:
        rows: with the columns `pair_id`, `image` and `mask` of PAIR.
        labels: of the masks.
        decode: encoded columns -> arrays, as of the segmenter's task.
        predict: (B, H, W, 3) uint8 -> (B, H, W) class ids.
        judge: the set that the segmenter was trained on.
        on: the folder of `rows`.
        real: (B, H, W, 3) uint8 images, that those of `rows` are to be as sharp as.

    Raises:
        ConfigError: no pixel of the masks has a known class.
    """
    shown = rows.sort_by("pair_id").slice(0, MAX_JUDGED)
    decoded = decode({name: np.array(shown[name].to_pylist(), object) for name in ("image", "mask")})
    confusion = confusion_matrix(
        decoded["mask"], predict(decoded["image"]), labels.num_classes + 1, labels.ignore_index
    )
    if not confusion.any():
        raise ConfigError(
            f"{on}: no pixel of the {shown.num_rows} judged masks has a known class, so there is nothing to compare; "
            "generate the pairs with a lower sampler.confidence_threshold, or leave `judged` empty"
        )
    objects = confusion[1:, 1:-1]
    return Agreement(
        judge=judge,
        on=on,
        miou=mean_iou(confusion),
        pixel_accuracy=pixel_accuracy(confusion),
        class_accuracy=float(np.diag(objects).sum() / objects.sum()) if objects.any() else None,
        sharpness=None if real is None else sharpness(decoded["image"]) / max(sharpness(real), 1e-12),
    )


def sharpness(images: np.ndarray) -> float:
    """Mean squared Laplacian of the grey values of images (B, H, W, 3) uint8."""
    grey = grey_values(images)
    inner = grey[:, 1:-1, 1:-1]
    edges = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * inner
    return float(np.square(edges).mean(dtype=np.float64)) if edges.size else 0.0


def grey_values(images: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 -> (...) float32, the means of the three colours; several times as fast as numpy's own mean."""
    red, green, blue = (images[..., one] for one in range(3))
    total = red.astype(np.float32)
    total += green
    total += blue
    return total / 3


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


def agreement_with_truth(
    labelled: pa.Table, pairs: pa.Table, labels: LabelSpace, *, decode: Callable[[Batch], Batch]
) -> tuple[float, float]:
    """How well a teacher's labels agree with the true masks of the same pictures.

    Args:
        labelled: `pair_id`, `mask` and `sampler` of a run of labels.
        pairs: `pair_id` and `mask` of the run whose pictures these are; those without masks do not count.
        labels: of both.
        decode: as of `agreement`.

    Returns:
        mIoU over the pixels that the teacher answered, and the share of the known pixels that these are.
    """
    (made_by,) = labelled["sampler"].unique().to_pylist()
    place = {labelled_pair_id(one, made_by): place for place, one in enumerate(pairs["pair_id"].to_pylist())}
    found = pairs.take(pa.array([place[one] for one in labelled["pair_id"].to_pylist()]))
    has = pa.array([bool(cell and cell["bytes"]) for cell in found["mask"].to_pylist()])
    truth, answers = (
        decode({"mask": object_column(rows.filter(has)["mask"].to_pylist())})["mask"] for rows in (found, labelled)
    )
    known = truth != labels.ignore_index
    answered = known & (answers != labels.ignore_index)
    counted = np.where(answered, truth, labels.ignore_index)
    confusion = confusion_matrix(counted, answers, labels.num_classes + 1, labels.ignore_index)
    return mean_iou(confusion), float(answered.sum() / max(known.sum(), 1))
