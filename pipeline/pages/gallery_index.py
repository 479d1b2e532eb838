"""The index of a gallery: what its page reads to sort, filter and find pairs, in parts that are read as needed.

`meta` says what there is. A number, a category, a class, the texts, the seeds and the ids are a column each, a value
for each pair: little-endian float32 (NaN is null), uint16 or uint32 (the greatest value is null), or a bit. `rows/<n>`
holds all columns of BLOCK pairs.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.labels import LabelSpace
from pipeline.base.errors import Stopped
from pipeline.base.log import log
from pipeline.pages.gallery_files import as_json, write_content
from pipeline.pages.gallery_rows import NEAREST, PLACE, RUN, SHARD, Rows
from pipeline.tables.scores import BETTER

BLOCK = 256
BINS = 32
EDGES = (0.005, 0.995)
"""Of the values that a histogram spans; its outer bins hold what is beyond."""
NO_CODE = 2**32 - 1
MOST_CATEGORIES = 1000
POSTINGS = 1 << 16
"""Numbers in a file of the words' index, about."""
LARGEST_EXACT = 2**53
"""Integers beyond are text, since a browser would round them."""
LARGEST_FLOAT32 = 2**24
"""Columns with integers beyond are not sorted by, since float32 would round them."""
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
"""A run of letters and digits; in scripts without spaces, each sign."""


@dataclass
class Index:
    """Writes an index.

    Attributes:
        folder: of the gallery.
        into: folder in it.
        rows: the pairs.
        labels: of all of them.
        stop: whether to leave it unfinished.
        size: bytes that were written.
    """

    folder: str
    into: str
    rows: Rows
    labels: LabelSpace
    stop: Callable[[], bool] = lambda: False
    size: int = 0
    _num: int = 0
    _meta: dict[str, Any] = field(default_factory=dict)

    def write(self, meta: dict[str, Any]) -> None:
        """Writes all of it, what the page reads first last.

        Args:
            meta: what else the page is told.

        Raises:
            ShardError: a file cannot be written.
            Stopped: it was asked to stop.
        """
        table = self.rows.table
        runs = table[RUN].to_numpy()
        shown = np.array([not one.hidden for one in self.rows.sources])[runs]
        self._meta = {
            **meta,
            "num": table.num_rows,
            "block": BLOCK,
            "sources": [
                {"name": one.name, "given": one.given, "bundle": one.bundle, "hidden": one.hidden, "num": int(num)}
                for one, num in zip(self.rows.sources, np.bincount(runs, minlength=len(self.rows.sources)), strict=True)
            ],
            "classes": self._classes(shown),
            "numbers": list(self._numbers(shown)),
            "categories": list(self._categories(shown)),
            "prompts": self._prompts(),
            "match": self._match(),
            "ids": self._column(hashes(table["pair_id"].to_pylist())),
        }
        self._write_rows()
        self._put("meta", as_json(self._meta))

    def _put(self, name: str, content: bytes) -> str:
        if self.stop():
            raise Stopped(f"stopped: all pictures are in {self.folder}, but not the index")
        self.size += write_content(self.folder, f"{self.into}/{name}", content)
        return name

    def _column(self, values: np.ndarray) -> str:
        self._num += 1
        return self._put(f"columns/{self._num}", values.astype(values.dtype.newbyteorder("<")).tobytes())

    def _classes(self, shown: np.ndarray) -> list[dict[str, Any]]:
        lists = self.rows.table["class_ids"].combine_chunks()
        ids, parent = pc.list_flatten(lists).to_numpy(), pc.list_parent_indices(lists).to_numpy()
        found = []
        for number in np.unique(ids).tolist():
            has = np.zeros(len(lists), bool)
            has[parent[ids == number]] = True
            file = self._column(np.packbits(has, bitorder="little"))
            found.append({"id": number, "pairs": int((has & shown).sum()), "file": file})
        return found

    def _numbers(self, shown: np.ndarray) -> Iterator[dict[str, Any]]:
        for name in self.rows.table.column_names:
            values = _as_numbers(self.rows.table[name]) if name not in (SHARD, PLACE, RUN, NEAREST) else None
            if values is None or not (known := np.isfinite(values) & shown).any():
                continue
            if np.ptp(some := values[known]) or name in self.rows.scores:
                whole = bool((some == np.round(some)).all() and np.ptp(some) < BINS)
                low, high = (some.min(), some.max()) if whole else np.quantile(some, EDGES)
                if low == high:
                    low, high = some.min(), some.max()
                around = max(0.5, 0.01 * abs(float(low))) if low == high else 0.5  # as much as float32 can tell
                bins = int(high - low) + 1 if whole or low == high else BINS
                edges = (float(low) - around, float(high) + around) if bins == 1 or whole else (low, high)
                counts = np.histogram(np.clip(some, low, high), bins, edges)[0].tolist()
                yield {
                    "name": name, "file": self._column(values), "low": float(edges[0]), "high": float(edges[1]),
                    "least": float(some.min()), "most": float(some.max()), "whole": whole, "counts": counts,
                    "known": int(known.sum()), "better": BETTER.get(name, 0), "score": name in self.rows.scores,
                }  # fmt: skip

    def _categories(self, shown: np.ndarray) -> Iterator[dict[str, Any]]:
        """The columns that few distinct texts share, also those that are the same everywhere (without a file)."""
        for name in self.rows.table.column_names:
            column = self.rows.table[name]
            if not pa.types.is_dictionary(column.type):
                continue
            coded = pc.drop_null(column).combine_chunks()
            values = sorted(pc.unique(coded.cast(pa.string())).to_pylist())
            if not 0 < len(values) <= MOST_CATEGORIES:
                continue
            found = pc.index_in(column.cast(pa.string()), pa.array(values, pa.string()))
            codes = pc.fill_null(found, 0xFFFF).to_numpy().astype(np.uint16)
            counts = np.bincount(codes[shown & (codes != 0xFFFF)], minlength=len(values)).tolist()
            one = len(values) == 1 and not column.null_count
            yield {"name": name, "values": values, "counts": counts, "file": "" if one else self._column(codes)}

    def _prompts(self) -> dict[str, Any]:
        """Texts as numbers in alphabetical order, and which of them hold a word."""
        prompts = pc.fill_null(self.rows.table["prompt"], "").combine_chunks()
        texts = pc.unique(prompts)
        texts = texts.take(pc.sort_indices(texts))
        postings: dict[str, array[int]] = {}
        for code, text in enumerate(texts.to_pylist()):
            for word in set(words_of(text)):
                postings.setdefault(word, array("I")).append(code)
        words = sorted(postings)
        starts: list[int] = []
        content: list[np.ndarray] = []
        held = 0
        for number, word in enumerate(words):
            if not content:
                starts.append(number)
            content.append(np.diff(np.frombuffer(postings[word], np.uint32), prepend=np.uint32(0)))
            held += len(content[-1])
            if held >= POSTINGS or number == len(words) - 1:
                self._put(f"words/{len(starts) - 1}", np.concatenate(content).astype("<u4").tobytes())
                content, held = [], 0
        blank = bool(len(texts)) and not texts[0].as_py()  # no prompt; it sorts last
        known = {"words": words, "counts": [len(postings[word]) for word in words], "starts": starts}
        file = self._column(pc.index_in(prompts, texts).to_numpy().astype(np.uint32))
        return {"file": file, "num": len(texts), "blank": blank, "words": self._put("words/all", as_json(known))}

    def _match(self) -> str:
        """Numbers that pairs of several runs share where they are to be compared: those of one seed, or without seeds
        (real pictures) of one content, or where that is not known of one name in one split of one data set. "" where
        nothing can be."""
        if sum(not one.hidden for one in self.rows.sources) < 2:
            return ""
        table = self.rows.table
        dataset, split, key = (table[name].cast(pa.string()) for name in ("dataset", "split", "key"))
        names = pc.binary_join_element_wise("name", dataset, pc.fill_null(split, ""), key, "\0")
        seen = table["image_digest"] if "image_digest" in table.column_names else pa.nulls(len(names), pa.string())
        known = pa.table({"name": names, "seen": seen}).filter(pc.is_valid(seen)).combine_chunks()
        if known.num_rows:  # the same name elsewhere, in a run of an earlier release, is the same picture
            seen = pc.coalesce(seen, known["seen"].take(pc.index_in(names, known["name"].combine_chunks())))
        seeds = pc.binary_join_element_wise("seed", table["seed"].cast(pa.string()), "\0")
        keys = pc.coalesce(seeds, seen, names)
        codes = keys.combine_chunks().dictionary_encode().indices
        return self._column(pc.fill_null(codes.cast(pa.uint32()), NO_CODE).to_numpy())

    def _write_rows(self) -> None:
        """All columns of all pairs; those that are the same everywhere are told once."""
        table = self.rows.table.drop_columns([SHARD, PLACE, RUN]).combine_chunks()
        constants: dict[str, Any] = {}
        for name in table.column_names:
            if table[name].null_count == table.num_rows:
                table = table.drop_columns([name])
            elif pa.types.is_dictionary(table[name].type) and len(pc.unique(table[name])) == 1:
                constants[name] = table[name][0].as_py()
                table = table.drop_columns([name])
        self._meta["constants"] = constants
        large = [name for name in table.column_names if _is_beyond(table[name], LARGEST_EXACT)]
        last = -(-table.num_rows // BLOCK)
        for number in range(last):
            rows = table.slice(number * BLOCK, BLOCK)
            columns = {name: _plain(rows[name], name in large) for name in rows.column_names}
            self._put(f"rows/{number}", as_json(columns))
            if number and not number % 400:
                log.info("gallery: index of %s of %s pairs", f"{number * BLOCK:,}", f"{table.num_rows:,}")


def words_of(text: str) -> list[str]:
    """The words of a text, as they are looked for: in small letters."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def hashes(ids: Sequence[str]) -> np.ndarray:
    """(N,) uint32: FNV-1a of the UTF-8 of each, by which the page finds a pair."""
    encoded = [one.encode() for one in ids]
    lengths = np.array(list(map(len, encoded)), np.int64)
    signs = np.array(encoded, f"S{max(1, lengths.max(initial=1))}").view(np.uint8).reshape(len(encoded), -1)
    found = np.full(len(encoded), 2166136261, np.uint32)
    for place in range(signs.shape[1]):
        found = np.where(place < lengths, (found ^ signs[:, place]) * np.uint32(16777619), found)
    return found


def _as_numbers(column: pa.ChunkedArray) -> np.ndarray | None:
    """(N,) float32, NaN where null; None for what is no number, or one that float32 cannot tell from others."""
    type_ = column.type
    if not (pa.types.is_floating(type_) or pa.types.is_integer(type_) or pa.types.is_boolean(type_)):
        return None
    if _is_beyond(column, LARGEST_FLOAT32):
        return None
    if pa.types.is_boolean(type_):
        column = column.cast(pa.int8())
    return column.cast(pa.float64()).to_numpy().astype(np.float32)


def _is_beyond(column: pa.ChunkedArray, largest: int) -> bool:
    if not pa.types.is_integer(column.type) or column.null_count == len(column):
        return False
    found = pc.min_max(column).as_py()
    return max(abs(found["min"]), abs(found["max"])) > largest


def _plain(column: pa.ChunkedArray, as_text: bool) -> list[Any]:
    """Values as JSON has them; floats with seven digits, which float32 has."""
    if pa.types.is_floating(column.type):
        return _rounded(column.cast(pa.float64()).to_numpy())
    values = column.to_pylist()
    if as_text:
        return [None if one is None else str(one) for one in values]
    if isinstance(next((one for one in values if one is not None), ""), str | bool | int | list):
        return values
    return [None if one is None else str(one) for one in values]


def _rounded(values: np.ndarray) -> list[float | None]:
    """(N,) float64 to seven digits; None for what is no number."""
    known = np.isfinite(values)
    some = np.where(known & (values != 0), values, 1.0)
    scale = 10.0 ** (6 - np.floor(np.log10(np.abs(some))))
    found = np.where(values == 0, 0.0, np.round(some * scale) / scale).astype(object)
    found[~known] = None
    return list(found.tolist())
