"""Teach a bundle's network to take few steps, with guidance built in; its weights are a bundle that samples faster."""

from jobs import command
from pipeline.cluster.connection import cluster
from pipeline.pages.bundle_card import student_card
from pipeline.storage.copies import local_copy
from pipeline.storage.publish import write_bytes
from pipeline.training.fit import WEIGHTS_FOLDER
from pipeline.training.tasks.distill import DistillConfig, distill


def main(config: DistillConfig) -> None:
    with cluster():
        scores = distill(config)
    weights = f"{config.folder}/{WEIGHTS_FOLDER}"
    write_bytes(f"{weights}/README.md", student_card(local_copy(weights), config.run, scores).encode())


if __name__ == "__main__":
    command(main, DistillConfig)
