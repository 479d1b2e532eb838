"""Train a segmenter on real, synthetic or mixed pairs and test it on real held-out ones."""

from jobs import command
from pipeline.cluster.connection import cluster
from pipeline.evaluate import EvaluateConfig, evaluate


def main(config: EvaluateConfig) -> None:
    with cluster():
        evaluate(config)


if __name__ == "__main__":
    command(main, EvaluateConfig)
