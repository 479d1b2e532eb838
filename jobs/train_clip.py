"""Train a small CLIP (tokenizer, text and image towers) on a set's prompts and images."""

from jobs import command
from pipeline.cluster.connection import cluster
from pipeline.training.tasks.clip import ClipConfig, train_clip


def main(config: ClipConfig) -> None:
    with cluster():
        train_clip(config)


if __name__ == "__main__":
    command(main, ClipConfig)
