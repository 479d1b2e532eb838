"""Give pictures masks by a teacher that learns from labelled pairs, where that is shown to help."""

from jobs import command
from pipeline.cluster.connection import cluster
from pipeline.label import LabelConfig, label


def main(config: LabelConfig) -> None:
    with cluster():
        label(config)


if __name__ == "__main__":
    command(main, LabelConfig)
