"""The first hour of docs/own-data.md: the set that the page makes, and every command up to the first pairs read."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.tables.manifest import Manifest

PAGE = Path(__file__).parent.parent / "docs" / "own-data.md"


@pytest.mark.ray
@pytest.mark.slow
def test_the_first_hour(tmp_path, ray_session, monkeypatch, capsys):
    hour = PAGE.read_text().split("## The first hour")[1].split("## 1.")[0]
    (code,) = re.findall(r"```python\n(.*?)```", hour, flags=re.DOTALL)
    commands = [shlex.split(line) for line in re.findall(r"^\$ python -m jobs\.(.*)$", hour, flags=re.MULTILINE)]
    monkeypatch.chdir(tmp_path)

    exec(code, {})
    for job, *arguments in commands[1:]:  # the first is of the reader's own pictures
        monkeypatch.setattr(sys, "argv", [job, *arguments])
        runpy.run_module(f"jobs.{job}", run_name="__main__", alter_sys=True)

    assert [job for job, *_ in commands] == ["start", "start", "ingest", "ingest", "ingest"]
    told = Path("configs/garments/README.md").read_text()
    assert told in capsys.readouterr().out
    for path in re.findall(r"configs/garments/\S+\.yaml", told):
        assert yaml.safe_load(Path(path).read_text())
    counts = [Manifest.scan(f"runs/garments{ending}") for ending in ("", "-validation", "-test")]
    assert sum(one.num_pairs for one in counts) == 60 and not any(one.num_errors for one in counts)
    assert Path("runs/garments/look.html").read_text().count("data:image/png;base64") == 32
