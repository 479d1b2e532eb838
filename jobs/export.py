"""Write sets of pairs in the formats that trainers read."""

from jobs import command
from pipeline.cluster.connection import cluster
from pipeline.export import ExportConfig, export


def main(config: ExportConfig) -> None:
    with cluster():
        export(config)


if __name__ == "__main__":
    command(main, ExportConfig)
