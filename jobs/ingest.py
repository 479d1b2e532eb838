"""Read a real data set into PAIR shards."""

from jobs import command
from pipeline.cluster.connection import cluster
from pipeline.ingest import IngestConfig, ingest, look


def main(config: IngestConfig) -> None:
    if config.look:  # some pictures need no cluster
        look(config)
        return
    with cluster():
        ingest(config)


if __name__ == "__main__":
    command(main, IngestConfig)
