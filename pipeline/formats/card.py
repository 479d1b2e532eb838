"""The card of an exported set: what it is, what its numbers mean, where it is from; with pictures."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from html import escape
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from models.labels import LabelSpace
from pipeline.formats.part import Record, Records, Tree, summaries
from pipeline.formats.tally import Tally
from pipeline.pictures.codec import decode_image, encode_image
from pipeline.pictures.sheets import row_of_tiles
from pipeline.storage.publish import write_bytes
from pipeline.tables.label_space import LABELS

CARD, SHEET, TEMPLATE = "README.md", "assets/pairs.png", "card.md.j2"
MAX_NAMED = 100
"""Of damaged pairs, and of settings of the sampler."""
TERMS = {
    "ade20k": "ADE20K: pictures for non-commercial research and education; annotations BSD 3-Clause "
    "(https://ade20k.csail.mit.edu/terms)",
    "builtin": "built-in scenes: Fashion-MNIST (MIT) on freely licensed photographs, listed in "
    "pipeline/datasets/builtin_assets/NOTICE.md",
    "builtin2": "built-in scenes, version 2: Fashion-MNIST (MIT) on freely licensed photographs, listed in "
    "pipeline/datasets/builtin_assets/NOTICE.md",
    "cityscapes": "Cityscapes: its own licence, non-commercial (https://www.cityscapes-dataset.com/license)",
    "coco": "COCO: annotations CC BY 4.0; pictures under the terms of Flickr, each with a licence of its own "
    "(https://cocodataset.org/#termsofuse)",
    "voc": "Pascal VOC: pictures under the terms of Flickr (http://host.robots.ox.ac.uk/pascal/VOC)",
}
"""What is known of the terms of a data set, by the column `dataset`."""
MAX_LISTED = 10
"""Of sizes, sources and bundles."""


def write_card(
    tree: Tree,
    records: Records,
    reading: str,
    front: Mapping[str, Any] | None = None,
    labels: LabelSpace | None = None,
) -> None:
    """Writes `README.md`, `label_space.json` and `assets/pairs.png`.

    Args:
        tree: where to, and what the masks hold.
        records: of all parts.
        reading: Python text that reads the set; "{split}" becomes its first split.
        front: what goes into the YAML block at the top, for the Hugging Face Hub.
        labels: what the masks hold as they are written, where their ignore index is another there.
    """
    labels = labels or tree.labels
    known = {split: summaries(parts) for split, parts in records.items()}
    tallies = {split: Tally.joined(part["tally"] for part in parts) for split, parts in known.items()}
    damaged = {split: _damaged(parts) for split, parts in known.items()}
    whole = Tally.joined(tally.dump() for tally in tallies.values())
    if whole.shown:
        tiles = [decode_image(base64.b64decode(one["picture"]), SHEET) for one in whole.shown]
        write_bytes(f"{tree.folder}/{SHEET}", encode_image(row_of_tiles(tiles)))
    write_bytes(f"{tree.folder}/{LABELS}", labels.to_json().encode())
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": _text, "number": "{:,}".format}
    card = environment.get_template(TEMPLATE).render(
        front=yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True) if front else "",
        name=tree.name,
        labels=labels,
        ignore_below=tree.ignore_below,
        ignore_noisy=tree.ignore_noisy,
        total=whole.num_pairs,
        shown=whole.shown,
        splits=[_split(name, tally, tree.runs[name], len(damaged[name])) for name, tally in tallies.items()],
        classes=_classes(labels, tree.labels.ignore_index, list(tallies.values())),
        tally=partial(_listed, whole),
        terms=[
            text for name, text in TERMS.items() if any(one.split("/")[0] == name for one in whole.counts["source"])
        ],
        samplers=list(whole.counts["sampler"])[:MAX_NAMED],
        num_damaged=sum(map(len, damaged.values())),
        damaged=dict(islice(chain.from_iterable(one.items() for one in damaged.values()), MAX_NAMED)),
        reading=reading.replace("{split}", next(iter(records))),
    )
    write_bytes(f"{tree.folder}/{CARD}", card.encode())


def _damaged(parts: Iterable[Record]) -> dict[str, str]:
    return {pair_id: why for part in parts for pair_id, why in part["left_out"].items()}


def _split(name: str, tally: Tally, runs: tuple[str, ...], left_out: int) -> dict[str, Any]:
    text = tally.counts["text"]
    words = f"{text['words'] / text['captions']:.1f}" if text["captions"] else ""
    sizes = {"pairs": tally.num_pairs, "left_out": left_out}
    return {"name": name, "runs": runs, "text": text, "words": words, **sizes}


def _classes(labels: LabelSpace, ignored_as: int, tallies: Sequence[Tally]) -> list[dict[str, Any]]:
    """A row for every id that a mask may hold: what it is, and for each split the images with it and its share; the
    ignore index was counted as `ignored_as`."""
    named = [*enumerate(labels.classes), (labels.ignore_index, "(ignored)")]
    colours = labels.colours(np.array([[class_id for class_id, _ in named]]))[0]
    return [
        {
            "id": class_id,
            "name": name,
            "colour": "#" + bytes(colour).hex(),
            "found": [
                _found(tally, str(ignored_as if class_id == labels.ignore_index else class_id)) for tally in tallies
            ],
        }
        for (class_id, name), colour in zip(named, colours, strict=True)
    ]


def _found(tally: Tally, class_id: str) -> tuple[int, str]:
    pixels = tally.counts["pixels"]
    return tally.counts["images"][class_id], f"{pixels[class_id] / max(1, pixels.total()):.2%}"


def _listed(tally: Tally, kind: str) -> str:
    """What was counted of one kind, the most frequent first."""
    found = tally.counts[kind]
    listed = ", ".join(f"{_text(value)} ({num:,})" for value, num in found.most_common(MAX_LISTED) if value)
    return listed + (f" and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else "")


def _text(value: str) -> str:
    """Text of strangers, such as a prompt, as Markdown shows it letter for letter in one line."""
    return re.sub(r"([\\`*_\[\]#|~])", r"\\\1", escape(" ".join(value.split()), quote=False))
