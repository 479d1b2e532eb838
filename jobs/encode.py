"""Turn pairs into latents, once, for training the joint network."""

from jobs import command
from pipeline.cluster.connection import cluster
from pipeline.encode import EncodeConfig, encode


def main(config: EncodeConfig) -> None:
    with cluster():
        encode(config)


if __name__ == "__main__":
    command(main, EncodeConfig)
