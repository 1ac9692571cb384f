"""Which queue a task goes to by its name: Celery's setting ``task_routes``."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pkgutil import resolve_name
from typing import Any, Final

from aioresults.errors import ConfigurationError

#: A route: options, or the name of a queue.
Route = Mapping[str, Any] | str
#: What ``task_routes`` may be, alone or several in turn: a mapping from names, glob patterns or compiled regular
#: expressions to routes, pairs of those, a function as in Celery, or the import path of one.
Router = Mapping[Any, Route] | Sequence[tuple[Any, Route]] | Callable[..., Any] | str

#: Parts of a route that decide where a task goes; who names one of them decides alone.
DESTINATION: Final = frozenset({"queue", "exchange", "routing_key"})
#: What a route may say, and only a client that declares queues would need.
_DECLARING: Final = frozenset({"exchange_type", "declare"})


class Routes:
    """Finds the route of a task: of the first router that has one.

    Args:
        routes: one router, or a sequence of them.

    Raises:
        ConfigurationError: something that is no router.
    """

    def __init__(self, routes: Router | Sequence[Router] | None = None) -> None:
        if routes is None:
            routes = ()
        several = routes if isinstance(routes, (list, tuple)) else (routes,)
        self._routers = [_router(each) for each in several]

    def find(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
        """Return the options that the route of a task adds to ``options``, which count more."""
        for router in self._routers:
            route = router(name, args, kwargs, dict(options), task=None)
            if route is not None:
                return _added(_as_options(route), options)
        return {}


def _added(route: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    skipped = _DECLARING | (DESTINATION if DESTINATION & options.keys() else frozenset())
    return {name: value for name, value in route.items() if name not in skipped and name not in options}


def _as_options(route: Any) -> dict[str, Any]:
    if isinstance(route, str):
        return {"queue": route}
    if not isinstance(route, Mapping):
        raise ConfigurationError(f"a route is a mapping of options, or the name of a queue, not {route!r}")
    # kombu's Queue and Exchange stand for their names.
    return {
        name: getattr(value, "name", value) if name in ("queue", "exchange") else value for name, value in route.items()
    }


def _router(router: Any) -> Callable[..., Any]:
    if isinstance(router, Mapping):
        return ByName(router.items())
    if isinstance(router, (list, tuple)):
        return ByName(router)
    if isinstance(router, str):
        try:
            router = resolve_name(router if ":" in router else ":".join(router.rsplit(".", 1)))
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigurationError(f"there is no router {router!r}: {error}") from error
    if not callable(router):
        raise ConfigurationError(f"a router is a mapping, pairs, a function or its import path, not {router!r}")
    return router  # type: ignore[no-any-return]


class ByName:
    """Routes by the exact name, and otherwise by the first pattern that fits."""

    def __init__(self, routes: Iterable[tuple[Any, Route]]) -> None:
        self._exact: dict[str, Route] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        for name, route in routes:
            if isinstance(name, re.Pattern):
                self._patterns.append((name, route))
            elif not isinstance(name, str):
                raise ConfigurationError(f"a route is for a name, a glob or a regular expression, not {name!r}")
            elif "*" in name:
                self._patterns.append((re.compile(fnmatch.translate(name)), route))
            else:
                self._exact[name] = route

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> Route | None:
        """Return the route of a task, or None."""
        if name in self._exact:
            return self._exact[name]
        return next((route for pattern, route in self._patterns if pattern.match(name)), None)
