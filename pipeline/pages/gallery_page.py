"""The page of a gallery: what a browser runs of it, as files beside its index."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from models.labels import LabelSpace
from pipeline.storage.publish import write_bytes
from pipeline.tables.ids import text_digest

ASSETS = Path(__file__).parent / "gallery"
PAGE = "index.html"


def assets_digest() -> str:
    """What tells one version of the page from another."""
    return text_digest({path.name: path.read_text(encoding="utf-8") for path in sorted(ASSETS.iterdir())})


def write_assets(folder: str) -> None:
    """Writes script and style into `folder`. The scripts are one: a page that is opened from disk has no modules."""
    parts = [path.read_text(encoding="utf-8") for path in sorted(ASSETS.glob("*.js"))]
    text = '(() => {\n"use strict";\n' + "\n".join(parts) + "\n})();\n"
    write_bytes(f"{folder}/gallery.js", text.encode())
    write_bytes(f"{folder}/gallery.css", (ASSETS / "gallery.css").read_bytes())


def write_page(folder: str, into: str, title: str, labels: LabelSpace) -> str:
    """Writes the page, which says in which folder (`into`) its index is; returns its path."""
    environment = Environment(
        loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    text = environment.get_template("index.html.j2").render(into=into, title=title, labels=labels)
    write_bytes(f"{folder}/{PAGE}", text.encode())
    return f"{folder}/{PAGE}"
