"""What the tests of runs share: warnings, heard instead of printed, and an outbox that does not wait."""

from __future__ import annotations

import pytest

from pipeline.runs import outbox


@pytest.fixture
def said(monkeypatch) -> list[str]:
    words: list[str] = []
    monkeypatch.setattr("pipeline.base.log.log.warning", lambda text, *values: words.append(text % values))
    monkeypatch.setattr(outbox, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(outbox, "FLUSHING_PAUSE_S", 0.05)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return words
