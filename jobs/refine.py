"""Write the pairs of a run again with other mask optimisation, without sampling anew."""

from jobs import command
from pipeline.cluster.connection import cluster
from pipeline.refine import RefineConfig, refine


def main(config: RefineConfig) -> None:
    with cluster():
        refine(config)


if __name__ == "__main__":
    command(main, RefineConfig)
