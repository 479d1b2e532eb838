"""Read a real data set into PAIR shards."""

from jobs import command
from pipeline.base.log import log
from pipeline.cluster.connection import cluster
from pipeline.ingest import IngestConfig, ingest, look


def main(config: IngestConfig) -> None:
    if config.look:  # some pictures need no cluster
        look(config)
        log.info("ingest: the same command without --look reads all pairs")
        return
    with cluster():
        ingest(config)


if __name__ == "__main__":
    command(main, IngestConfig)
