"""Rewrite the small shards of a run into large ones; nothing is lost if it is stopped."""

from __future__ import annotations

from jobs import command
from pipeline.cluster.connection import cluster
from pipeline.compact import CompactConfig, compact


def main(config: CompactConfig) -> None:
    with cluster():
        compact(config)


if __name__ == "__main__":
    command(main, CompactConfig)
