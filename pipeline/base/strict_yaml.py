"""YAML as people write it by hand: a key that stands twice is an error, where YAML's own readers take the later one."""

from __future__ import annotations

from typing import Any

import yaml


def load_yaml(text: str) -> Any:
    """The plain values of a YAML text.

    Raises:
        ValueError: not YAML, or a key that stands twice; in one line, with the numbers of the lines.
    """
    try:
        return yaml.load(text, Loader=_Strict)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a date such as 2024-13-01
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from error


class _Strict(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here, where each mapping comes once and before others are merged into it (<<), which it may override.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line, name = key.start_mark.line + 1, (key.tag, key.value)
                if name in lines:
                    raise yaml.YAMLError(
                        f"the key {key.value} stands twice, in lines {lines[name]} and {line}; keep one of them"
                    )
                lines[name] = line
        return node
