"""The errors a user can meet. Each says what is wrong, where, and how to correct it; jobs print no trace of them."""

from __future__ import annotations


class JoDiffusionError(Exception):
    """Base of every error that a user can meet and correct."""


class ConfigError(JoDiffusionError):
    """A wrong key, value or combination in a config, or a run folder that belongs to another config."""


class DataError(JoDiffusionError):
    """A picture, mask, prompt or file that cannot be used as it is."""


class MaskError(DataError):
    """A mask that is a picture, but not of class ids of its label space, or not of its image's size."""


class Stopped(JoDiffusionError):  # noqa: N818 (nothing went wrong)
    """The user asked to stop; what was made is kept."""


class ShardError(JoDiffusionError):
    """A shard that cannot be read or written (truncated file, full disk, wrong table)."""


class ClusterError(JoDiffusionError):
    """Processes or machines that die more often than they are started again, or a cluster that does not answer."""
