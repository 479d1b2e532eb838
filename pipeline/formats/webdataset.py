"""WebDataset: tar files, read from end to end; the members of one pair follow each other and share its id."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any

from pipeline.formats.card import write_card
from pipeline.formats.part import Pair, Part, Records, Tree
from pipeline.storage.publish import publish
from pipeline.tables.ids import canonical_json

READING = """\
import io

import numpy
import webdataset
from PIL import Image


def read_mask(encoded):  # "pil" alone would make colours of the class ids
    return numpy.array(Image.open(io.BytesIO(encoded)))


decoders = webdataset.handle_extension("mask.png", read_mask), "pil"
for pair in webdataset.WebDataset("{split}-000000.tar", shardshuffle=False).decode(*decoders):
    image = next(pair[suffix] for suffix in ("jpg", "png", "webp") if suffix in pair)
    mask, facts = pair["mask.png"], pair["json"]
"""


@dataclass(frozen=True)
class WebDataset:
    """`{split}-{index}.tar` with `<pair_id>.jpg` (`.png`, `.webp`), `<pair_id>.mask.png` and `<pair_id>.json`."""

    tree: Tree

    def write(self, part: Part, pairs: Iterable[Pair]) -> Any:
        def write(file: IO[bytes]) -> None:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                for pair in pairs:
                    _add(archive, f"{pair.name}.{pair.suffix}", pair.image)
                    _add(archive, f"{pair.name}.mask.png", pair.encoded_mask)
                    _add(archive, f"{pair.name}.json", canonical_json(pair.facts).encode())

        name = f"{part.split}-{part.index:06d}.tar"
        publish(f"{self.tree.folder}/{name}", write)
        return name

    def finish(self, records: Records) -> None:
        write_card(self.tree, records, READING)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a file without time or owner, so that the same pairs give the same archive."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
