"""Caption the pictures of real pairs, with BLIP-2 or another model."""

from jobs import command
from pipeline.caption import CaptionConfig, caption
from pipeline.cluster.connection import cluster


def main(config: CaptionConfig) -> None:
    with cluster():
        caption(config)


if __name__ == "__main__":
    command(main, CaptionConfig)
