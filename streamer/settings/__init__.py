"""Everything that may be set.

values        every setting with its type, default and limits
loading       `streamer.toml`, environment and command line, merged
secret_files  secrets come from files and variables only
kafka_names   which settings of librdkafka may be passed through
redis_url     what may stand in `cache.url`
"""

from streamer.settings.values import PREFIX, SEPARATOR, ModelsSettings, Settings, leaves

__all__ = [
    "PREFIX",
    "SEPARATOR",
    "ModelsSettings",
    "Settings",
    "kafka_names",
    "leaves",
    "loading",
    "redis_url",
    "secret_files",
]
