"""The page that shows a run: `write_report` makes one self-contained `report.html` of an output folder."""

from pipeline.results.report.write import write_report

__all__ = ["write_report"]
