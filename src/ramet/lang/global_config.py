"""The settings object under the path that programs import; see `ramet.config`."""

from ramet.config import GlobalConfig, global_config

__all__ = ["GlobalConfig", "global_config"]
