"""Await what unmodified Celery workers do. Only ``ResultBackend``, for the workers' side, imports Celery."""

from typing import TYPE_CHECKING

from aioresults.contrib.celery.canvas import Chain, Signature
from aioresults.contrib.celery.chain_result import ChainResult
from aioresults.contrib.celery.client import CeleryClient
from aioresults.contrib.celery.group import Chord, Group
from aioresults.contrib.celery.options import TaskOptions
from aioresults.contrib.celery.reply_to import with_reply_to
from aioresults.contrib.celery.task import Task

if TYPE_CHECKING:
    from aioresults.contrib.celery.result_backend import ResultBackend

__all__ = [
    "CeleryClient",
    "Chain",
    "ChainResult",
    "Chord",
    "Group",
    "ResultBackend",
    "Signature",
    "Task",
    "TaskOptions",
    "with_reply_to",
]


def __getattr__(name: str) -> object:
    if name != "ResultBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from aioresults.contrib.celery.result_backend import ResultBackend

    return ResultBackend
