"""Train the joint diffusion network on latents; its weights are a bundle to generate with."""

from jobs import command
from pipeline.cluster.connection import cluster
from pipeline.training.tasks.joint import JointConfig, train_joint


def main(config: JointConfig) -> None:
    with cluster():
        train_joint(config)


if __name__ == "__main__":
    command(main, JointConfig)
