"""The job: what it may ask for, how it is read and checked, and what makes two of them the same run."""

from pipeline.config.fingerprint import changed_settings
from pipeline.config.job import ColumnsConfig, JobConfig, ModelConfig
from pipeline.config.reading import ConfigError, load_config, read_back

__all__ = [
    "ColumnsConfig",
    "ConfigError",
    "JobConfig",
    "ModelConfig",
    "changed_settings",
    "load_config",
    "read_back",
]
