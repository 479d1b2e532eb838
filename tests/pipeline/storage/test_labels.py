"""Label spaces are found by name, by path and by URL, and errors name what was given."""

from __future__ import annotations

import fsspec
import pytest

from models.labels import VOC
from pipeline.storage.labels import has_palette, named_labels

MINE = "name: mine\nclasses: [background, cat]\n"
URL = "memory://labels/mine.yaml"


def put(text: str) -> None:
    with fsspec.open(URL, "w") as file:
        file.write(text)


def test_a_label_space_is_found_by_name_path_and_url(tmp_path, monkeypatch):
    monkeypatch.setenv("JODIFFUSION_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.yaml").write_text(MINE)
    put(MINE)
    assert named_labels("voc") == VOC
    assert named_labels(URL) == named_labels(str(tmp_path / "mine.yaml"))
    assert named_labels(URL).classes == ("background", "cat") and not has_palette(URL)
    put(MINE + "palette: [[0, 0, 0], [1, 2, 3]]\n")
    assert has_palette(URL), "a file that has changed is fetched anew"


def test_errors_name_the_url(tmp_path, monkeypatch):
    monkeypatch.setenv("JODIFFUSION_CACHE", str(tmp_path / "cache"))
    put("name: mine\n")
    with pytest.raises(ValueError, match=f"^{URL}: a label space has the keys name and classes"):
        named_labels(URL)
    with pytest.raises(ValueError, match="label space 'memory://labels/none.yaml': cannot read it .nothing is there."):
        named_labels("memory://labels/none.yaml")
