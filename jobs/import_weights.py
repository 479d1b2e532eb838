"""Make a bundle of published weights: UniDiffuser's folder, or JoDiffusion's checkpoints."""

from __future__ import annotations

from jobs import command
from pipeline.base.log import set_up_logging
from pipeline.import_weights import ImportConfig, import_weights


def main(config: ImportConfig) -> None:
    set_up_logging()
    import_weights(config)


if __name__ == "__main__":
    command(main, ImportConfig)
