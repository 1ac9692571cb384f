"""aioresults: task results over RabbitMQ, stored by one process and awaited by another.

The public names stand in ``aioresults.api``. They are loaded on first use, because pytest imports this package at every
start, for its plug-in, and the AMQP libraries take a fifth of a second to load.

These modules are public as well, with the names in their ``__all__``. All others may change without notice.

- ``results``, ``states``: what a report holds; ``errors``, ``events``: what is raised, and what ``on_event`` receives;
- ``messaging``: exchanges, queues, producers, consumers; ``transport``: the channel they use;
- ``routing``, ``serialization``: for routings and serializers of your own;
- ``transport.memory``: the broker behind ``memory://``, for tests;
- ``contrib.celery``, ``contrib.fastapi``, ``contrib.taskiq``, ``contrib.pytest_plugin``, ``contrib.rabbitmq``.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioresults.api import *  # noqa: F403

    __all__: list[str]
else:

    def __getattr__(name: str) -> object:
        # All public names are classes. A lower-case name is a submodule that is not imported yet.
        if name == "__all__" or name[:1].isupper():
            from aioresults import api

            public = {each: value for each, value in vars(api).items() if each[:1].isupper()}
            globals().update(public, __all__=list(public))
        if name not in globals():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
