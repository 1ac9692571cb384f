"""``ResultBackend``: Celery workers store through the routings of this package. Needs ``aioresults[celery]``."""
# mypy: allow-subclassing-any, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final, TypeVar

from celery import current_task, signals, states
from celery.backends.base import BaseBackend
from celery.result import GroupResult, result_from_tuple
from kombu.exceptions import EncodeError as KombuEncodeError

from aioresults.app_settings import app_settings
from aioresults.backend import AMQPBackend
from aioresults.contrib.celery.bridge import BRIDGE
from aioresults.errors import EncodeError, ResultNotRouted
from aioresults.results import ResultMeta
from aioresults.routing import ReplyQueue, Routing

T = TypeVar("T")

logger: Final = logging.getLogger("aioresults")

NO_CHORDS = """\
The result backend of aioresults does not support chords, and a group followed by a task is one. Join on the client's \
side: await the group, then send the body; CeleryClient.chord does so.\
"""
#: Seconds between attempts at an inbox that is not there. A worker has other things to do than to wait for a caller
#: that is gone; one that is restarted under a name of its own finds its inbox where it left it.
UNROUTABLE = (0.05, 0.2)


class ResultBackend(BaseBackend):
    """``result_backend = "aioresults.contrib.celery:ResultBackend://"``: for every pool, prefork, threads and solo.

    Stores at the broker of the tasks, or at that of ``...:ResultBackend+amqp://host/vhost``. Parameters of
    ``AMQPBackend``, ``routing`` among them, go into the setting ``result_backend_transport_options``; a subclass may
    have a ``routing`` of its own. By itself that is ``ReplyQueue``: results go to the ``reply_to`` of the task.

    One thread for each process holds the connection; a store returns when the broker has confirmed it. A task without
    ``reply_to`` has no reader, so nothing is stored, as with Celery's ``rpc://``; a result whose reader is gone is
    dropped with a warning. Chords are refused with ``NotImplementedError`` when they are called. Groups can be saved.
    """

    supports_autoexpire = True
    supports_result_compression = True

    #: Where results go.
    routing: ClassVar[Routing] = ReplyQueue()

    def __init__(self, app: Any, url: str | None = None, **options: Any) -> None:
        super().__init__(app, url=url, **options)
        given = {
            "routing": self.routing,
            "unroutable_policy": UNROUTABLE,
            **(app.conf.result_backend_transport_options or {}),
            "store_only": True,
        }
        scheme, _, rest = (url or "").partition("://")
        if rest.partition("/")[0]:
            given["url"] = f"{scheme if scheme in ('amqp', 'amqps') else 'amqp'}://{rest}"
        # Made here, so that a setting that cannot work ends the worker at its start.
        self._settings = app_settings(app, given)
        AMQPBackend(**self._settings)

    def _run(self, operation: Callable[[AMQPBackend], Awaitable[T]]) -> T:
        return BRIDGE.call((type(self), self.app), lambda: AMQPBackend(**self._settings), operation)

    def as_uri(self, include_password: bool = False) -> str:
        """Return the broker's URL, without the password unless asked for."""
        return AMQPBackend(**self._settings).as_uri(include_password)

    # Storing

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Store one report, and return ``result`` when the broker has confirmed it.

        Raises:
            kombu's EncodeError: the serializer cannot write it; Celery then stores that as the task's failure.
            BrokerUnavailable, StoreError, ChannelError: as ``AMQPBackend.store_result``.
        """
        request = request or getattr(current_task, "request", None)
        if self._settings["routing"].needs_reply_to and not getattr(request, "reply_to", None):
            return result
        extra = self._extended(request)
        text = None if traceback is None else str(traceback)

        async def store(backend: AMQPBackend) -> None:
            await backend.store_result(task_id, result, state, text, request, **extra)

        try:
            self._run(store)
        except EncodeError as error:
            raise KombuEncodeError(str(error)) from error
        except ResultNotRouted as error:
            logger.warning("dropped: %s", error)
        return result

    def _extended(self, request: Any) -> dict[str, Any]:
        """Return what ``result_extended`` adds, and the request's stamps."""
        known = {"status", "result", "traceback", "children", "date_done", "group_id", "parent_id"}
        meta = self._get_result_meta(None, states.PENDING, None, request)
        return {name: value for name, value in meta.items() if name not in known}

    # Looking: what the routing allows; with ReplyQueue nothing is known here

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        async def look(backend: AMQPBackend) -> ResultMeta:
            return await backend.get_task_meta(task_id)

        meta = self._run(look)
        shown = {name: getattr(meta, name) for name in ("task_id", "status", "result", "traceback", "children")}
        return {**shown, "date_done": meta.date_done, "group_id": meta.group_id, "parent_id": meta.parent_id}

    def _forget(self, task_id: str) -> None:
        async def forget(backend: AMQPBackend) -> None:
            await backend.forget(task_id)

        self._run(forget)

    # Groups

    def _save_group(self, group_id: str, result: Any) -> Any:
        async def save(backend: AMQPBackend) -> None:
            await backend.save_group(group_id, result)

        self._run(save)
        return result

    def _restore_group(self, group_id: str) -> dict[str, GroupResult] | None:
        async def restore(backend: AMQPBackend) -> Any:
            group = await backend.restore_group(group_id, cache=False)
            return group and group.as_tuple()

        form = self._run(restore)
        return None if form is None else {"result": result_from_tuple(form, self.app)}

    def _delete_group(self, group_id: str) -> None:
        async def delete(backend: AMQPBackend) -> None:
            await backend.delete_group(group_id)

        self._run(delete)

    # Chords

    def ensure_chords_allowed(self) -> None:
        """Refuse chords.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(NO_CHORDS)


@signals.worker_process_shutdown.connect
def _close_bridge(**kwargs: Any) -> None:
    """Say goodbye to the broker: a prefork child ends without what is registered with ``atexit``."""
    BRIDGE.close()
