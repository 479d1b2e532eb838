"""Renamed: jobs.evaluate."""

from jobs import renamed

renamed("train_segmenter")
