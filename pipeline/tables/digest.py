"""What tells one set of shards from another."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from pipeline.storage.files import filesystem_of, reaching
from pipeline.tables.selection import view_of
from pipeline.tables.shards import open_shard, some_shards


@dataclass(frozen=True)
class DataDigest:
    """What tells one set of shards from another.

    Attributes:
        folder: of the run that holds the shards.
        digest: 16 hex digits over names (hashes of the ids inside) and sizes of the shards, and the encoders.
        num_shards: number of them.
        num_bytes: of all of them.
        encoders: digest of the encoders that made latents; "" for pairs.
    """

    folder: str
    digest: str
    num_shards: int
    num_bytes: int
    encoders: str

    @classmethod
    def of(cls, folder: str) -> DataDigest:
        """Reads names, sizes and one footer.

        Raises:
            ShardError: there are no shards, or the first one is broken.
        """
        view = view_of(folder)
        shards = some_shards(view.folder)
        with open_shard(shards[0]) as shard:
            encoders = (shard.schema_arrow.metadata or {}).get(b"encoders", b"").decode()
        parent = shards[0].rpartition("/")[0]
        filesystem, path = filesystem_of(parent)
        with reaching(parent):
            found = {info["name"].rpartition("/")[2]: int(info["size"]) for info in filesystem.ls(path, detail=True)}
        sizes = [(name, found[name]) for name in (shard.rpartition("/")[2] for shard in shards)]
        content: tuple[object, ...] = (encoders, sizes)
        if view.kept is not None:
            content += (blake2b("".join(view.kept.to_pylist()).encode()).hexdigest(),)
        total = blake2b(repr(content).encode(), digest_size=8).hexdigest()
        return cls(folder, total, len(sizes), sum(size for _, size in sizes), encoders)
