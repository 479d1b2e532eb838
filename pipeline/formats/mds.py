"""MDS: the shards of MosaicML's `streaming`, one folder a split."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base.errors import ConfigError
from pipeline.formats.card import write_card
from pipeline.formats.part import Pair, Part, Records, Tree
from pipeline.storage.files import read_bytes
from pipeline.storage.publish import write_bytes

INDEX = "index.json"
INSTALL = """\
pip install --no-deps mosaicml-streaming && pip install brotli catalogue python-snappy torchvision zstd"""
"""Without its own list of needs, which asks for transformers before 5 and could not be met beside this project."""
COLUMNS = {"pair_id": "str", "image": "bytes", "mask": "bytes", "prompt": "str", "facts": "json"}
READING = """\
import io
from PIL import Image
from streaming import StreamingDataset

for pair in StreamingDataset(local="{split}", batch_size=1):
    image, mask = (Image.open(io.BytesIO(pair[name])) for name in ("image", "mask"))
"""


@dataclass(frozen=True)
class Mosaic:
    """`{split}/{index}/shard.*.mds`, and `{split}/index.json` over all of them; `image` and `mask` are encoded.

    Raises:
        ConfigError: the package `streaming` is not there, or lacks what it needs.
    """

    tree: Tree

    def __post_init__(self) -> None:
        try:
            import streaming  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"format mds: needs the package streaming ({error}): {INSTALL}") from error

    def write(self, part: Part, pairs: Iterable[Pair]) -> Any:
        from streaming import MDSWriter

        # The writer knows nothing of whole or not at all: its files are made aside, and published with the index last.
        with tempfile.TemporaryDirectory() as aside:
            out = Path(aside) / "part"
            with MDSWriter(out=str(out), columns=COLUMNS, hashes=["sha1"]) as writer:
                for pair in pairs:
                    texts = {"pair_id": pair.name, "prompt": pair.facts["prompt"] or "", "facts": pair.facts}
                    writer.write({**texts, "image": pair.image, "mask": pair.encoded_mask})
            for path in sorted(out.iterdir(), key=lambda path: path.name == INDEX):
                write_bytes(f"{self.tree.folder}/{part.split}/{part.index:05d}/{path.name}", path.read_bytes())
        return f"{part.index:05d}"

    def finish(self, records: Records) -> None:
        for split, parts in records.items():
            folder = f"{self.tree.folder}/{split}"
            indices = {part["made"]: json.loads(read_bytes(f"{folder}/{part['made']}/{INDEX}")) for part in parts}
            write_bytes(f"{folder}/{INDEX}", json.dumps(merged(indices)).encode())
        write_card(self.tree, records, READING)


def merged(indices: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The indices of subfolders, by name, as one index of the folder above, as `streaming.base.util.merge_index` does
    for folders that it can reach."""
    shards = []
    for folder, index in indices.items():
        for shard in index["shards"]:
            files = {
                name: {**shard[name], "basename": f"{folder}/{shard[name]['basename']}"}
                for name in ("raw_data", "raw_meta", "zip_data", "zip_meta")
                if shard.get(name)
            }
            shards.append({**shard, **files})
    return {"version": 2, "shards": shards}
