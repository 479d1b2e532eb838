"""Make image/mask pairs from prompts."""

from jobs import command
from pipeline.cluster.connection import cluster
from pipeline.generate import GenerateConfig, generate


def main(config: GenerateConfig) -> None:
    with cluster():
        generate(config)


if __name__ == "__main__":
    command(main, GenerateConfig)
