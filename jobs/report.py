"""Write one page that shows what a run made: pictures, class shares, the proof, throughput."""

from jobs import command
from pipeline.report import ReportConfig, report

if __name__ == "__main__":
    command(report, ReportConfig)
