"""Train a segmenter on real, synthetic or mixed pairs and test it on real held-out ones."""

from jobs import command
from pipeline.cluster.connection import cluster
from pipeline.proof import ProofConfig, train_segmenters


def main(config: ProofConfig) -> None:
    with cluster():
        train_segmenters(config)


if __name__ == "__main__":
    command(main, ProofConfig)
