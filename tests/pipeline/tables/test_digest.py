"""A digest tells one set of shards from another."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.base.errors import ShardError
from pipeline.tables.conform import conform
from pipeline.tables.digest import DataDigest
from pipeline.tables.schema import LATENT, latent_schema
from pipeline.tables.shards import write_table


def test_a_digest_changes_with_shards_and_encoders(tmp_path):
    def write(folder: str, ids: list[str], encoders: str) -> DataDigest:
        latents = dict.fromkeys(("image_latent", "mask_latent", "image_embedding", "text_embedding"), [b"x"] * len(ids))
        rows = pa.table({"latent_id": ids, "pair_id": ids, "flipped": [False] * len(ids), **latents})
        table = conform(rows, LATENT).cast(latent_schema({"image_latent": (1, 1, 1)}, encoders))
        write_table(table, str(tmp_path / folder / "shards"))
        return DataDigest.of(str(tmp_path / folder))

    one = write("one", ["a", "b"], "e1")
    assert one.encoders == "e1" and one.num_shards == 1 and one.num_bytes > 0
    assert write("same", ["a", "b"], "e1").digest == one.digest
    assert write("other", ["a", "b"], "e2").digest != one.digest
    more = write("one", ["c"], "e1")
    assert more.digest != one.digest and more.num_shards == 2
    with pytest.raises(ShardError, match="no shards"):
        DataDigest.of(str(tmp_path / "empty"))
