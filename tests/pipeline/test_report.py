"""The job writes the page into its run. What is on it: tests/pipeline/pages/test_report_page.py."""

from __future__ import annotations

import pytest

from pipeline.base.errors import DataError
from pipeline.report import ReportConfig, report
from tests.tiny import save_pairs


def test_a_page_is_written_and_written_again_with_more_on_it(tmp_path):
    pairs, real = save_pairs(tmp_path / "pairs", 6), save_pairs(tmp_path / "real", 4, "test")
    config = ReportConfig(run="page", runs=str(tmp_path / "runs"), pairs=str(pairs), num_shown=2)
    path = report(config)
    assert path == tmp_path / "runs" / "page" / "report.html"
    first = path.read_text()
    assert first.count("<img ") == 3 * 2 and "6 pairs" in first

    assert report(config.model_copy(update={"real": str(real), "num_shown": 3})) == path
    assert path.read_text().count("<img ") == 3 * 3 and "4 pairs" not in first


def test_what_cannot_be_shown_leaves_no_page(tmp_path):
    pairs = save_pairs(tmp_path / "pairs", 2)
    config = ReportConfig(run="page", runs=str(tmp_path / "runs"), pairs=str(pairs), proof=str(tmp_path / "no-such"))
    with pytest.raises(DataError, match="no-such: no such folder"):
        report(config)
    assert not (tmp_path / "runs" / "page" / "report.html").exists()
