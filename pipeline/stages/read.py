"""ReadPairs: entries of a real data set -> packed pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from models.labels import LabelSpace
from pipeline.base.errors import DataError, MaskError
from pipeline.base.log import log
from pipeline.datasets.source import PairError, Source
from pipeline.pictures.codec import encode_mask
from pipeline.pictures.masks import check_mask, class_areas
from pipeline.pictures.photograph import Transparency, read_photograph
from pipeline.tables.conform import object_column
from pipeline.tables.schema import Batch

Void = Literal["ignore", "background"]


class ReadPairs:
    """Stage: `pair_id`, `key`, `image`, `mask`, `captions` as in `Source.entries` -> rows of PAIR, packed.

    Pictures become upright sRGB; those that are keep their bytes. Rows that cannot be read get an `error`.

    Args:
        source: where the entries come from.
        labels: what its masks hold.
        dataset, split, origin: columns to write.
        void: what `ignore_index` becomes: it stays, or is background as in the paper's code.
        as_stored: masks were drawn on pictures as stored, not as EXIF turns them.
        transparency: what becomes of transparent pictures.
    """

    def __init__(
        self,
        source: Source,
        labels: LabelSpace,
        dataset: str,
        split: str,
        origin: str = "real",
        void: Void = "ignore",
        as_stored: bool = False,
        transparency: Transparency = "white",
    ) -> None:
        self.source, self.labels, self.void, self.as_stored = source, labels, void, as_stored
        self.transparency: Transparency = transparency
        self.told: set[str] = set()
        self.constant = {"origin": origin, "dataset": dataset, "split": split}

    def __call__(self, batch: Batch) -> Batch:
        num = len(batch["pair_id"])
        rows = [self._row({name: values[row] for name, values in batch.items()}) for row in range(num)]
        columns = {name: object_column([row[name] for row in rows]) for name in self._row_of_nothing()}
        columns["height"], columns["width"] = (columns[name].astype(np.int32) for name in ("height", "width"))
        same = {name: object_column([value] * num) for name, value in self.constant.items()}
        return {"pair_id": batch["pair_id"], "key": batch["key"], **same, **columns}

    def _row(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        if entry.get("error"):  # given up before it came here
            return {**self._row_of_nothing(), "error": entry["error"], "error_detail": entry["error_detail"]}
        try:
            return {**self._row_of_nothing(), **self._pair(entry)}
        except PairError as error:
            reason, detail = error.reason, str(error)
        except MaskError as error:
            reason, detail = "wrong_mask", str(error)
        except DataError as error:
            reason, detail = "undecodable_input", str(error)
        return {**self._row_of_nothing(), "error": reason, "error_detail": detail}

    def _pair(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        found = self.source.read(entry)
        labels, where = self.labels, str(entry["key"])
        photograph = read_photograph(found.image, f"picture {entry['image']}", self.transparency)
        if photograph.num_frames > 1:
            self._tell(f"picture %s holds {photograph.num_frames} frames: the first is taken", "frames", entry)
        if photograph.was_transparent:
            self._tell("picture %s is transparent somewhere: it is laid on white", "transparent", entry)
        pair = {"image": photograph.encoded, "height": photograph.height, "width": photograph.width}
        pair |= {"image_digest": photograph.digest}
        pair |= {"prompt": found.captions[0] if found.captions else "", "captions": found.captions}
        if found.mask is None:
            return pair
        mask = photograph.turned(found.mask, self.as_stored)
        if mask.shape != (photograph.height, photograph.width):
            raise MaskError(
                f"{where}: the mask has {mask.shape[1]} x {mask.shape[0]} pixels, its picture {photograph.width} x "
                f"{photograph.height}; one of them was resized or belongs to another pair"
            )
        class_ids, areas = check_mask(mask, labels, where)
        mask = mask.astype(labels.dtype, copy=False)
        if self.void == "background" and labels.ignore_index in class_ids:
            mask = np.where(mask == labels.ignore_index, labels.dtype(0), mask)
            class_ids, areas = class_areas(mask)
        return {**pair, "mask": encode_mask(mask), "class_ids": class_ids, "class_pixels": areas}

    def _tell(self, text: str, kind: str, entry: Mapping[str, Any]) -> None:
        """Once a process, not for each of thousands."""
        if kind not in self.told:
            self.told.add(kind)
            log.warning(f"{text}, here and of others like it", entry["image"])

    @staticmethod
    def _row_of_nothing() -> dict[str, Any]:
        """Every column of every row, also of those that fail: blocks must agree on their columns."""
        none = np.zeros(0, np.int64)
        pair = {"image": b"", "mask": b"", "height": 0, "width": 0, "class_ids": none.astype(np.int32)}
        texts = {name: "" for name in ("prompt", "image_digest", "error", "error_detail")}
        return {**pair, **texts, "class_pixels": none, "captions": []}
