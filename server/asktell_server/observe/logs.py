"""Structured logs on standard error: JSON where a machine reads them, columns where a person does.

`setup` is called once, by the composition root's caller; everybody else gets a logger by `structlog.get_logger()` and binds
`study`, `trial` and `request_id` to what it says.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

# gRPC logs a traceback when a reply finds that its caller has gone: cancelled, disconnected, or past its deadline.
_CALLER_GONE = "ExecuteBatchError raised in core by servicer method"
_GRPC_LOGGER = "grpc._cython.cygrpc"

LogFormat = Literal["auto", "json", "console"]


def setup(level: str = "info", log_format: LogFormat = "auto") -> None:
    """Directs structlog and the standard library's loggers to standard error. `auto` means JSON unless on a terminal."""
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        )
    )
    logging.getLogger(_GRPC_LOGGER).addFilter(_is_news)
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_CALLER_GONE)
