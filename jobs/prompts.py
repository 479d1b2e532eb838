"""Renamed: jobs.plan_prompts."""

from jobs import renamed

renamed("prompts")
