"""Write a page to look through a million pairs: sort, filter, compare, mark."""

from jobs import command
from pipeline.cluster.connection import cluster
from pipeline.gallery import GalleryConfig, gallery


def main(config: GalleryConfig) -> None:
    with cluster():
        gallery(config)


if __name__ == "__main__":
    command(main, GalleryConfig)
