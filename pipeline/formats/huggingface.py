"""Hugging Face: Parquet files and a card, as `datasets.load_dataset` and the Hub read them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.formats.card import write_card
from pipeline.formats.part import Pair, Part, Records, Tree
from pipeline.formats.tally import Tally
from pipeline.storage.publish import publish
from pipeline.tables.schema import PAIR
from pipeline.tables.shards import MAX_BYTES_PER_GROUP, MAX_ROWS_PER_GROUP, parquet_options

READING = """\
from datasets import load_dataset

pairs = load_dataset("path/of/this/folder", split="{split}")
image, mask = pairs[0]["image"], pairs[0]["mask"]
"""
SIZES = {"n<1K": 10**3, "1K<n<10K": 10**4, "10K<n<100K": 10**5, "100K<n<1M": 10**6, "1M<n<10M": 10**7}


@dataclass(frozen=True)
class HuggingFace:
    """`data/{split}-{index}-of-{total}.parquet` with the columns of PAIR."""

    tree: Tree

    def write(self, part: Part, pairs: Iterable[Pair]) -> Any:
        num_bytes = 0

        def write(file: IO[bytes]) -> None:
            with pq.ParquetWriter(file, PAIR, **parquet_options(PAIR)) as writer:
                for rows in _groups(pairs):
                    writer.write_table(rows)
                    nonlocal num_bytes
                    num_bytes += rows.nbytes

        name = f"data/{part.split}-{part.index:05d}-of-{part.total:05d}.parquet"
        publish(f"{self.tree.folder}/{name}", write)
        return {"num_bytes": num_bytes}

    def finish(self, records: Records) -> None:
        splits = [
            {
                "name": split,
                "num_bytes": sum(part["made"]["num_bytes"] for part in parts),
                "num_examples": Tally.joined(part["tally"] for part in parts).num_pairs,
            }
            for split, parts in records.items()
        ]
        write_card(self.tree, records, READING, front_matter(self.tree.name, splits))


def front_matter(name: str, splits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the Hub and `load_dataset` read at the top of the card; a split has `name`, `num_bytes`, `num_examples`."""
    features = json.loads(PAIR.metadata[b"huggingface"])["info"]["features"]
    total = sum(split["num_examples"] for split in splits)
    files = [{"split": split["name"], "path": f"data/{split['name']}-*.parquet"} for split in splits]
    return {
        "pretty_name": name,
        "license": "other",
        "task_categories": ["image-segmentation"],
        "task_ids": ["semantic-segmentation"],
        "size_categories": [next((name for name, limit in SIZES.items() if total < limit), "10M<n<100M")],
        "tags": ["semantic-segmentation", "jodiffusion"],
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {
            "features": [{"name": name, **_described(feature)} for name, feature in features.items()],
            "splits": [dict(split) for split in splits],
        },
    }


def _described(feature: dict[str, Any]) -> dict[str, str]:
    if feature["_type"] == "Image":
        return {"dtype": "image"}
    if feature["_type"] == "Sequence":
        return {"sequence": feature["feature"]["dtype"]}
    return {"dtype": feature["dtype"]}


def _groups(pairs: Iterable[Pair]) -> Iterator[pa.Table]:
    """Pairs as tables of no more rows and bytes than a row group should have."""
    rows: list[dict[str, Any]] = []
    num_bytes = 0
    for pair in pairs:
        pictures = {"image": pair.image, "mask": pair.encoded_mask, "confidence": pair.confidence}
        cells = {name: encoded and {"bytes": encoded, "path": None} for name, encoded in pictures.items()}
        rows.append({**pair.facts, **cells})
        num_bytes += sum(len(encoded or b"") for encoded in pictures.values())
        if len(rows) == MAX_ROWS_PER_GROUP or num_bytes >= MAX_BYTES_PER_GROUP:
            yield pa.Table.from_pylist(rows, schema=PAIR)
            rows, num_bytes = [], 0
    if rows:
        yield pa.Table.from_pylist(rows, schema=PAIR)
