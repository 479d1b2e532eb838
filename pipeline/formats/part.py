"""A part of an export: the pairs of one shard, read one after another, written in one format, noted in one record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.formats.tally import Tally
from pipeline.pictures.codec import ImageFormat, decode_mask, encode_image, encode_mask
from pipeline.pictures.masks import class_areas, ignore_uncertain
from pipeline.storage.files import read_bytes
from pipeline.storage.publish import write_bytes
from pipeline.tables.conform import conform
from pipeline.tables.pairs import encoded, unpack_confidence, unpack_pair
from pipeline.tables.schema import PAIR, captions_of
from pipeline.tables.shards import open_shard

ImageChoice = Literal["keep", "png", "webp", "jpeg"]
SUFFIXES: dict[ImageFormat, str] = {"png": "png", "webp": "webp", "jpeg": "jpg"}
PICTURES = ("image", "mask", "confidence")

Record = dict[str, Any]
"""What is noted of a part, as JSON: `split`, `index`, `shard`, `left_out` (pair id -> why), `tally` (see Tally), and
`made`: what its format needs in the end."""

Records = Mapping[str, Iterable[Record]]
"""The records of each split, in order; they can be gone through again and again."""


@dataclass(frozen=True)
class Tree:
    """What all parts of one export share.

    Attributes:
        folder: where its files go, a path or a URL.
        name: title of the set.
        labels: what the masks hold.
        runs: names of the runs that make up each split.
        image_format: of the pictures; "keep" leaves JPEG, PNG and WebP as they are, and makes others PNG.
        ignore_below: pixels of generated pairs of lower confidence become the ignore index; 0 leaves all.
        ignore_noisy: pixels of generated pairs and of a teacher's that `noise_map` of the scores marks become it, too.
    """

    folder: str
    name: str
    labels: LabelSpace
    runs: Mapping[str, tuple[str, ...]]
    image_format: ImageChoice = "keep"
    ignore_below: float = 0.0
    ignore_noisy: bool = False


@dataclass(frozen=True)
class Part:
    """Rows of one shard.

    Attributes:
        split: "train", "validation" or "test".
        index, total: number of the part, from 0, and how many its split has.
        first: number of its first pair; pairs are numbered from 1 over all splits.
        shard: path or URL of the Parquet file.
        rows: (N,) int64, ascending: places of the pairs in the shard.
        scores: paths or URLs of the shards of scores that hold theirs.
    """

    split: str
    index: int
    total: int
    first: int
    shard: str
    rows: np.ndarray
    scores: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.split}-{self.index:05d}"


@dataclass(frozen=True)
class Pair:
    """A pair that was looked through and may be written.

    Attributes:
        number: unique in the export.
        facts: the columns of PAIR that are no pictures, of this mask.
        image, suffix: the encoded picture, and "jpg", "png" or "webp".
        pixels: (H, W, 3) uint8, the picture.
        mask: (H, W) uint8 or uint16 class ids.
        encoded_mask: the same as a greyscale PNG.
        confidence: as in PAIR, or None.
    """

    number: int
    facts: dict[str, Any]
    image: bytes
    suffix: str
    pixels: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    encoded_mask: bytes
    confidence: bytes | None = None

    @property
    def name(self) -> str:
        return self.facts["pair_id"]

    @property
    def captions(self) -> list[str]:
        """All captions, or the prompt; none where there is neither."""
        return captions_of(self.facts)


class Format(Protocol):
    """Writes sets in one format. Small: every task gets a copy."""

    @property
    def tree(self) -> Tree: ...

    def write(self, part: Part, pairs: Iterable[Pair]) -> Any:
        """Writes the files of a part, each whole or not at all, and the same ones whenever it is called again; returns
        what `finish` needs of them, as JSON."""
        ...

    def finish(self, records: Records) -> None:
        """Writes what lists the files of all parts."""
        ...


@dataclass(frozen=True)
class Saved:
    """Records as they lie in files, read one at a time; what is small of them is remembered from the first time on."""

    paths: tuple[str, ...]
    small: dict[str, Record] = field(default_factory=dict, compare=False)

    def __iter__(self) -> Iterator[Record]:
        for path in self.paths:
            record = json.loads(read_bytes(path))
            self.small[path] = {name: value for name, value in record.items() if name != "made"}
            yield record


def summaries(records: Iterable[Record]) -> list[Record]:
    """Records without `made`, which alone grows with the number of pairs."""
    if isinstance(records, Saved):
        for _ in Saved(tuple(path for path in records.paths if path not in records.small), records.small):
            pass
        return [records.small[path] for path in records.paths]
    return list(records)


def write_part(format: Format, part: Part, record: str) -> Record:
    """Writes a part, and last of all its `record` (a path or URL), which says that it is done.

    Raises:
        DataError: a generated pair has no confidence map, but `ignore_below` needs one.
        ShardError: the shard cannot be read, or a file not be written.
    """
    left_out: dict[str, str] = {}
    tally = Tally.of(part.index, part.total)

    def counted() -> Iterator[Pair]:
        for pair in pairs_of(part, format.tree, left_out):
            tally.add(pair.facts, pair.pixels, format.tree.labels.colours(pair.mask))
            yield pair

    made = format.write(part, counted())
    noted: Record = {
        "split": part.split,
        "index": part.index,
        "shard": part.shard.rsplit("/", 1)[-1],
        "left_out": left_out,
        "tally": tally.dump(),
        "made": made,
    }
    write_bytes(record, json.dumps(noted, sort_keys=True).encode())
    return noted


def pairs_of(part: Part, tree: Tree, left_out: dict[str, str]) -> Iterator[Pair]:
    """The pairs of a part, read by the row group; `left_out` gets those that are damaged, and why.

    Raises:
        DataError: a generated pair has no confidence map or no noise map, but `tree` needs one.
        ShardError: the shard cannot be read.
    """
    number = part.first
    for table in _groups(part):
        noise = _noise_maps(part, table["pair_id"]) if tree.ignore_noisy else {}
        for row in conform(table, PAIR).to_pylist():
            if _needs_confidence(row, tree) and not encoded(row, "confidence"):
                raise DataError(
                    f"{part.shard}: pair {row['pair_id']} has no confidence map, which ignore_below needs; generate "
                    "with --keep-confidence True, or export with --ignore-below 0"
                )
            if (is_noisy := tree.ignore_noisy and row["origin"] != "real") and row["pair_id"] not in noise:
                raise DataError(
                    f"{part.shard}: pair {row['pair_id']} has no noise map, which ignore_noisy needs; score it with "
                    "--kinds judge at its own size (jobs.score), or leave ignore_noisy out"
                )
            try:
                yield looked_through(row, number, tree, noise[row["pair_id"]] if is_noisy else b"")
            except DataError as error:
                left_out[row["pair_id"]] = str(error)
            number += 1


def looked_through(row: Mapping[str, Any], number: int, tree: Tree, noise: bytes = b"") -> Pair:
    """A row of PAIR as a pair that can be written: decoded, compared and, where it is asked for, changed; of a `noise`
    map (PNG, 255 where a pixel is noisy) those pixels are ignored.

    Raises:
        DataError: a picture that cannot be decoded, sizes that differ, or ids that are no classes; names the pair.
    """
    where = f"pair {row['pair_id']}"
    pixels, mask, class_ids, areas = unpack_pair(row, tree.labels, where)
    encoded_mask = encoded(row, "mask")
    if _needs_confidence(row, tree):
        confidence = unpack_confidence(row, pixels, where)
        mask = ignore_uncertain(mask, confidence, tree.ignore_below, tree.labels.ignore_index)
    if noise:
        noisy = decode_mask(noise, f"{where}, noise map")
        if noisy.shape != mask.shape:
            raise DataError(
                f"{where}: its noise map has {noisy.shape} pixels (height, width), its mask {mask.shape}; let the "
                "judge see pairs at their own size"
            )
        # As sure as 1 where it is not noisy, and as 0 where it is.
        mask = ignore_uncertain(mask, 255 - noisy.astype(np.uint8), 1, tree.labels.ignore_index)
    if noise or _needs_confidence(row, tree):
        encoded_mask = encode_mask(mask)
        class_ids, areas = class_areas(mask)
    facts = {name: value for name, value in row.items() if name not in PICTURES}
    facts |= {"height": mask.shape[0], "width": mask.shape[1]}
    facts |= {"class_ids": class_ids.tolist(), "class_pixels": areas.tolist()}
    image, suffix = as_chosen(encoded(row, "image"), pixels, tree.image_format)
    return Pair(number, facts, image, suffix, pixels, mask, encoded_mask, encoded(row, "confidence") or None)


def as_chosen(given: bytes, pixels: np.ndarray, choice: ImageChoice) -> tuple[bytes, str]:
    """A picture, (H, W, 3) uint8, encoded as asked for, and its suffix; what is so already keeps its bytes."""
    found = suffix_of(given)
    if choice == "keep":
        choice = "png"
        if found:
            return given, found
    wanted = SUFFIXES[choice]
    return (given if found == wanted else encode_image(pixels, choice)), wanted


def suffix_of(given: bytes) -> str:
    """ "jpg", "png" or "webp", by the first bytes of a picture; empty for any other."""
    if given.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if given.startswith(b"\x89PNG\r\n"):
        return "png"
    return "webp" if given[:4] == b"RIFF" and given[8:12] == b"WEBP" else ""


def _noise_maps(part: Part, ids: pa.ChunkedArray) -> dict[str, bytes]:
    """Pair id -> noise map, of some pairs of a part."""
    found: dict[str, bytes] = {}
    for path in part.scores:
        with open_shard(path) as file:
            for group in range(file.num_row_groups):
                keys = file.read_row_group(group, ["pair_id"], use_threads=False)["pair_id"]
                if not pc.any(wanted := pc.is_in(keys, ids.combine_chunks())).as_py():
                    continue
                rows = file.read_row_group(group, ["pair_id", "noise_map"], use_threads=False).filter(wanted)
                found |= {row["pair_id"]: encoded(row, "noise_map") for row in rows.to_pylist() if row["noise_map"]}
    return found


def all_jpeg(part: Part) -> bool:
    """Whether every picture of a part is a JPEG; stops at the first that is none."""
    rows = (row for table in _groups(part, ["image"]) for row in table.to_pylist())
    return all(suffix_of(encoded(row, "image")) == "jpg" for row in rows)


def _groups(part: Part, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a part, by the row groups of its shard."""
    with open_shard(part.shard) as file:
        begin = 0
        for group in range(file.num_row_groups):
            end = begin + file.metadata.row_group(group).num_rows
            rows = part.rows[np.searchsorted(part.rows, begin) : np.searchsorted(part.rows, end)] - begin
            begin = end
            if rows.size:
                yield file.read_row_group(group, columns, use_threads=False).take(pa.array(rows))


def _needs_confidence(row: Mapping[str, Any], tree: Tree) -> bool:
    return tree.ignore_below > 0 and row["origin"] == "synthetic"
