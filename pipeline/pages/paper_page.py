"""The page of a table of the paper."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.evaluation.paper import DIFFERENCES, HEADS, Line, cells


def render(title: str, lines: list[Line], warnings: list[str]) -> str:
    """The page as HTML text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    rows = [cells(line) for line in lines]
    return environment.get_template("paper.html.j2").render(
        title=title, heads=HEADS, rows=rows, warnings=warnings, differences=DIFFERENCES
    )
