"""Make further pictures for masks that people have."""

from jobs import command
from pipeline.cluster.connection import cluster
from pipeline.multiply import MultiplyConfig, multiply


def main(config: MultiplyConfig) -> None:
    with cluster():
        multiply(config)


if __name__ == "__main__":
    command(main, MultiplyConfig)
