"""Train a small CLIP (tokenizer, text and image towers) on a set's prompts and images."""

from jobs import command
from pipeline.cluster.connection import cluster
from pipeline.training.text import TextConfig, train_text


def main(config: TextConfig) -> None:
    with cluster():
        train_text(config)


if __name__ == "__main__":
    command(main, TextConfig)
