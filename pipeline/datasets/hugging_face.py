"""Any Hugging Face data set with a column of images and one of masks: on the hub, or on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from models.labels import LabelSpace
from pipeline.base.config import Config
from pipeline.base.errors import ConfigError, DataError
from pipeline.datasets.source import Found, Labelled, PairError, entry_table, read_file, remapped
from pipeline.pictures.mask_colours import Colours


class Columns(Config):
    """Where a Hugging Face data set has what makes a pair."""

    subset: str = ""
    """Name of a part ("config") of a data set that has several."""

    image: str = "image"
    """Pictures."""
    mask: str = "mask"
    """Pictures of class ids."""
    caption: str = ""
    """Texts or lists of texts; empty: none."""


@dataclass(frozen=True)
class HuggingFace:
    """One split of a data set that the library `datasets` reads. Every machine opens it for itself: one of the hub is
    fetched once a machine, one on disk must be where all of them see it. Scripts are not run.

    Attributes:
        root: name on the hub ("zhoubolei/scene_parse_150"), or a folder: of `save_to_disk`, or of Parquet files
            and so on as `load_dataset` takes it.
        split: "train", "validation", ...
        image, mask: names of the columns, both of pictures.
        caption: name of a column of texts or of lists of texts; empty: none.
        values: raw value in the masks -> class id; values that it does not name stay.
        colours: which class each colour is, for masks in colours.
        subset: name of a part ("config") of a data set on the hub that has several.
        revision: commit on the hub. Rows are known by their numbers, so all must read the same version.
        labelled: which rows have masks; where none has, there need be no column of masks.
    """

    root: str
    split: str
    labels: LabelSpace
    image: str = "image"
    mask: str = "mask"
    caption: str = ""
    values: Mapping[int, int] = field(default_factory=dict)
    subset: str = ""
    revision: str = ""
    labelled: Labelled = "all"
    colours: Colours = field(default_factory=Colours)

    def entries(self) -> pa.Table:
        rows = self._rows
        texts = rows[self.caption] if self.caption else [[]] * len(rows)
        keys = map(str, range(len(rows)))
        without = [self.labelled == "none"] * len(rows)
        if self.labelled == "some":  # of whole columns this reads no pictures
            without = rows.data.column(self.mask).is_null().to_pylist()
        return entry_table(
            (key, key, "" if is_bare else key, _listed(text))
            for key, is_bare, text in zip(keys, without, texts, strict=True)
        )

    def read(self, entry: Mapping[str, Any]) -> Found:
        row = self._rows[int(entry["image"])]
        image, captions = _bytes(row[self.image], f"{self.image} of row {entry['image']}"), list(entry["captions"])
        if not entry["mask"]:
            return Found(image, None, captions)
        where = f"{self.mask} of row {entry['image']}"
        return Found(image, remapped(self.colours.decode(_bytes(row[self.mask], where), where), self.values), captions)

    @cached_property
    def _rows(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise ConfigError("reading Hugging Face data sets needs a package: pip install datasets") from error
        try:
            if (Path(self.root) / "dataset_info.json").exists() or (Path(self.root) / "dataset_dict.json").exists():
                found = datasets.load_from_disk(self.root)
                rows = found[self.split] if isinstance(found, datasets.DatasetDict) else found
                if rows.split is not None and str(rows.split) != self.split:
                    raise DataError(f"it is the split {str(rows.split)!r}")
            else:
                rows = datasets.load_dataset(
                    self.root, self.subset or None, split=self.split, revision=self.revision or None
                )
        except Exception as error:  # of the library, of the hub, of the network
            reason = " ".join(str(error).split())[:300]
            raise DataError(
                f"{self.root}, split {self.split!r}: cannot be opened ({type(error).__name__}: {reason}); "
                "check `root`, `split` and `columns.subset`"
            ) from error
        pictures = (self.image,) if self.labelled == "none" else (self.image, self.mask)
        wanted = [name for name in (*pictures, self.caption) if name]
        if absent := [name for name in wanted if name not in rows.column_names]:
            raise DataError(
                f"{self.root}: has no column {', '.join(absent)}, only {', '.join(rows.column_names)}; "
                "correct `columns.image`, `columns.mask` or `columns.caption`"
            )
        kinds = {name: rows.features.arrow_schema.field(name).type for name in wanted}
        if self.caption and not _are_texts(kinds[self.caption]):
            raise self._wrong(self.caption, kinds[self.caption], "not texts or lists of texts")
        for name in pictures:
            if pa.types.is_struct(kinds[name]) and not {"bytes", "path"} & {field.name for field in kinds[name]}:
                raise self._wrong(name, kinds[name], "not pictures")
            try:
                rows = rows.cast_column(name, datasets.Image(decode=False))
            except Exception as error:  # of the library and of Arrow, of many types
                raise self._wrong(name, kinds[name], "not pictures") from error
        return rows.select_columns(wanted)

    def _wrong(self, column: str, kind: pa.DataType, wanted: str) -> DataError:
        key = next(key for key in ("image", "mask", "caption") if getattr(self, key) == column)
        return DataError(
            f"{self.root}: the column {column} holds {kind}, {wanted}; name another in `columns.{key}`, or write such "
            "a column first (`datasets.Dataset.map`)"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_rows"}  # each process opens its own


def commit_of(name: str, revision: str) -> str:
    """The commit of a data set on the hub, now.

    Raises:
        ConfigError: the hub does not answer, or has no such data set.
    """
    import huggingface_hub

    try:
        return str(huggingface_hub.HfApi().dataset_info(name, revision=revision or None).sha)
    except Exception as error:  # of the hub, of the network
        raise ConfigError(
            f"root: {name} is neither a folder nor a data set on the hub "
            f"({' '.join(str(error).split())[:200]}); fetch it elsewhere with `hf download --repo-type dataset` and "
            "give the folder"
        ) from error


def _bytes(cell: Mapping[str, Any] | None, where: str) -> bytes:
    if cell is None:
        raise PairError("missing_file", f"{where}: empty")
    return cell["bytes"] if cell.get("bytes") is not None else read_file(cell["path"] or "", where)


def _are_texts(kind: pa.DataType) -> bool:
    """Texts, lists of them, or nothing at all."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _listed(value: Any) -> list[str]:
    texts = [] if value is None else [value] if isinstance(value, str) else value
    return [text.strip() for text in texts if text and text.strip()]
