"""Croissant: what a set is, for programs that look for data (MLCommons Croissant 1.0), with what its masks hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.labels import LabelSpace
from pipeline.tables.label_space import meaning

CROISSANT = "croissant.json"
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""As the standard gives it (docs.mlcommons.org/croissant)."""
COLUMNS = {
    "pair_id": "sc:Text",
    "prompt": "sc:Text",
    "origin": "sc:Text",
    "height": "sc:Integer",
    "width": "sc:Integer",
}
"""Of PAIR, beside the pictures, with their types there."""


def croissant(name: str, splits: Sequence[str], labels: LabelSpace) -> dict[str, Any]:
    """The file's content: Parquet files of each split, the fields of a pair, and the classes as a list of its own."""
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": f"Pairs of an image and its mask. {meaning(labels)}",
        "keywords": ["semantic segmentation", *labels.classes[1:]],
        "distribution": [
            {
                "@type": "cr:FileSet",
                "@id": f"{split}-files",
                "name": f"{split}-files",
                "encodingFormat": "application/x-parquet",
                "includes": f"data/{split}-*.parquet",
            }
            for split in splits
        ],
        "recordSet": [_classes(labels), *(_pairs(split, labels) for split in splits)],
    }


def _classes(labels: LabelSpace) -> dict[str, Any]:
    """The classes with their ids and colours; the ignore index is a row, of no class."""
    rows = [
        {"classes/id": number, "classes/name": text, "classes/colour": "#" + bytes(colour).hex()}
        for number, (text, colour) in enumerate(zip(labels.classes, labels.palette, strict=True))
    ]
    ignored = {"classes/id": labels.ignore_index, "classes/name": "(ignored)", "classes/colour": "#ffffff"}
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "dataType": "sc:Enumeration",
        "description": meaning(labels),
        "key": {"@id": "classes/id"},
        "field": [
            _field("classes/id", "sc:Integer", "value in masks"),
            _field("classes/name", "sc:Text", "name of the class"),
            _field("classes/colour", "sc:Text", "colour that it is drawn in"),
        ],
        "data": [*rows, ignored],
    }


def _pairs(split: str, labels: LabelSpace) -> dict[str, Any]:
    def column(name: str, kind: str, text: str, **transform: Any) -> dict[str, Any]:
        source = {"fileSet": {"@id": f"{split}-files"}, "extract": {"column": name}, **transform}
        return {**_field(f"{split}/{name}", kind, text), "source": source}

    pictures = {"image": "the image", "mask": f"class ids of its pixels. {meaning(labels)}"}
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "key": {"@id": f"{split}/pair_id"},
        "field": [
            *(column(name, kind, name) for name, kind in COLUMNS.items()),
            *(column(name, "sc:ImageObject", text, transform={"jsonPath": "bytes"}) for name, text in pictures.items()),
        ],
    }


def _field(identity: str, kind: str, text: str) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": identity, "name": identity, "description": text, "dataType": kind}
