"""A generate run whose first shard is never synced: `python -m tests.chaos.stuck_in_write CONFIG`. It touches
`stuck` beside the config when the draft is written, and waits there to be killed."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pipeline.cluster.drive
from pipeline.base.command_line import load
from pipeline.cluster.connection import cluster
from pipeline.cluster.sink import ShardSink
from pipeline.generate import GenerateConfig, generate


def main() -> None:
    marker = Path(sys.argv[1]).parent / "stuck"

    class StuckSink(ShardSink):
        def write(self, blocks: Any, ctx: Any) -> list[str]:
            def never_synced(_: int) -> None:
                marker.touch()
                time.sleep(600)

            os.fsync = never_synced  # type: ignore[assignment]
            return super().write(blocks, ctx)

    pipeline.cluster.drive.ShardSink = StuckSink  # type: ignore[misc]
    with cluster():
        generate(load(GenerateConfig, sys.argv[1]))


if __name__ == "__main__":
    main()
