"""Write one page that shows what a run made: pictures, class shares, the proof, throughput."""

from jobs import command
from pipeline.report import ReportConfig, report


def main(config: ReportConfig) -> None:
    report(config)


if __name__ == "__main__":
    command(main, ReportConfig)
