"""Renamed: jobs.train_clip."""

from jobs import renamed

renamed("train_text")
