"""Plan prompts from captions, templates and files, balanced over classes."""

from jobs import command
from pipeline.base.log import set_up_logging
from pipeline.plan_prompts import PromptsConfig, plan_prompts


def main(config: PromptsConfig) -> None:
    set_up_logging()
    plan_prompts(config)


if __name__ == "__main__":
    command(main, PromptsConfig)
