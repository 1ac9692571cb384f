"""Await what unmodified Celery workers do. Only ``ResultBackend``, for the workers' side, imports Celery."""

from aioresults.contrib.celery.client import CeleryClient
from aioresults.contrib.celery.options import TaskOptions
from aioresults.contrib.celery.task import Task

__all__ = ["CeleryClient", "Task", "TaskOptions"]
