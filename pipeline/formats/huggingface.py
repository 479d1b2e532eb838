"""Hugging Face: Parquet files and a card, as `datasets.load_dataset` and the Hub read them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.labels import LabelSpace
from pipeline.formats.card import write_card
from pipeline.formats.croissant import CROISSANT, croissant
from pipeline.formats.part import Pair, Part, Records, Tree, summaries
from pipeline.formats.tally import Tally
from pipeline.storage.publish import publish, write_bytes
from pipeline.tables.label_space import described, meaning
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
        schema = described(PAIR, self.tree.labels)

        def write(file: IO[bytes]) -> None:
            with pq.ParquetWriter(file, schema, **parquet_options(schema)) as writer:
                for rows in _groups(pairs, schema):
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
                "num_examples": Tally.joined(part["tally"] for part in summaries(parts)).num_pairs,
            }
            for split, parts in records.items()
        ]
        origins = Tally.joined(part["tally"] for parts in records.values() for part in summaries(parts)).counts[
            "origin"
        ]
        write_card(self.tree, records, READING, front_matter(self.tree.name, splits, self.tree.labels, set(origins)))
        facts = croissant(self.tree.name, list(records), self.tree.labels)
        write_bytes(f"{self.tree.folder}/{CROISSANT}", json.dumps(facts, indent=1, ensure_ascii=False).encode())


def front_matter(
    name: str, splits: Sequence[Mapping[str, Any]], labels: LabelSpace, origins: Collection[str]
) -> dict[str, Any]:
    """What the Hub and `load_dataset` read at the top of the card; a split has `name`, `num_bytes`, `num_examples`,
    `origins` are the kinds of pairs there are."""
    features = json.loads(described(PAIR, labels).metadata[b"huggingface"])["info"]["features"]
    total = sum(split["num_examples"] for split in splits)
    files = [{"split": split["name"], "path": f"data/{split['name']}-*.parquet"} for split in splits]
    return {
        "pretty_name": name,
        "license": "other",
        "task_categories": ["image-segmentation"],
        "task_ids": ["semantic-segmentation"],
        "size_categories": [next((name for name, limit in SIZES.items() if total < limit), "10M<n<100M")],
        "tags": ["semantic-segmentation", "jodiffusion", *(["synthetic"] if "synthetic" in origins else [])],
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {
            "description": meaning(labels),
            "features": [{"name": name, **_described(name, feature, labels)} for name, feature in features.items()],
            "splits": [dict(split) for split in splits],
        },
    }


def _described(name: str, feature: dict[str, Any], labels: LabelSpace) -> dict[str, Any]:
    if feature["_type"] == "Image":
        return {"dtype": {"image": {"id": feature["id"]}} if "id" in feature else "image"}
    if name == "prompt_class_ids":  # what a prompt asks for is never the ignore index
        return {"sequence": {"class_label": {"names": {str(one): text for one, text in enumerate(labels.classes)}}}}
    if feature["_type"] == "Sequence":
        return {"sequence": feature["feature"]["dtype"]}
    return {"dtype": feature["dtype"]}


def _groups(pairs: Iterable[Pair], schema: pa.Schema) -> Iterator[pa.Table]:
    """Pairs as tables of no more rows and bytes than a row group should have."""
    rows: list[dict[str, Any]] = []
    num_bytes = 0
    for pair in pairs:
        pictures = {"image": pair.image, "mask": pair.encoded_mask, "confidence": pair.confidence}
        cells = {name: encoded and {"bytes": encoded, "path": None} for name, encoded in pictures.items()}
        rows.append({**pair.facts, **cells})
        num_bytes += sum(len(encoded or b"") for encoded in pictures.values())
        if len(rows) == MAX_ROWS_PER_GROUP or num_bytes >= MAX_BYTES_PER_GROUP:
            yield pa.Table.from_pylist(rows, schema=schema)
            rows, num_bytes = [], 0
    if rows:
        yield pa.Table.from_pylist(rows, schema=schema)
