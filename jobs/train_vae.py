"""Train an autoencoder: of masks (--net annotation) or of images (--net image)."""

from jobs import command
from pipeline.cluster.connection import cluster
from pipeline.training.tasks.latents import VAEConfig
from pipeline.training.tasks.vae import train_vae


def main(config: VAEConfig) -> None:
    with cluster():
        train_vae(config)


if __name__ == "__main__":
    command(main, VAEConfig)
