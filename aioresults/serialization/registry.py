"""Which serializers and which exception classes a backend knows. Each instance is on its own; nothing is global."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aioresults import validation
from aioresults.errors import ConfigurationError
from aioresults.serialization import safe_yaml
from aioresults.serialization.marked_json import json_serializer
from aioresults.serialization.messagepack import msgpack_serializer
from aioresults.serialization.serializer import Serializer
from aioresults.serialization.wire_format import BATCH_MEDIA_TYPE

_NEEDS_PYYAML: Final = "it needs PyYAML: install aioresults[yaml]"
_RUNS_CODE: Final = "it runs code that a message brings along, so it exists only where you register it"
_ABSENT: Final = {
    "yaml": _NEEDS_PYYAML,
    "application/x-yaml": _NEEDS_PYYAML,
    "pickle": _RUNS_CODE,
    "application/x-python-serialize": _RUNS_CODE,
}


class Serializers:
    """The serializers that a backend may write and read, and the exception classes that it may rebuild.

    Knows ``json`` and ``msgpack``, and ``yaml`` where PyYAML is installed. Register serializers before a backend is
    made; exception classes may follow at any time.

    Example::

        import sqlite3

        from aioresults import AMQPBackend, Serializers

        serializers = Serializers()
        serializers.register_exception(sqlite3.IntegrityError)
        backend = AMQPBackend(serializer="msgpack", serializers=serializers)
    """

    def __init__(self) -> None:
        known = [json_serializer(), msgpack_serializer()]
        if safe_yaml.is_installed():
            known.append(safe_yaml.yaml_serializer())
        self._serializers = {serializer.name: serializer for serializer in known}
        #: Exception classes that may be rebuilt, by ``(exc_module, exc_type)``.
        self.exceptions: dict[tuple[str, str], type[Exception]] = {}

    def register(
        self,
        name: str,
        dumps: Callable[[Any], bytes | str],
        loads: Callable[[Any], Any],
        content_type: str,
        content_encoding: str = "utf-8",
        *,
        upper_bound: Callable[[Any], int] = len,
        exceeds: Callable[[Any, int], bool] | None = None,
    ) -> None:
        """Add a serializer, or replace the one of that name.

        Example::

            import json

            from aioresults import AMQPBackend

            serializers.register("indented", lambda value: json.dumps(value, indent=2), json.loads, "text/x-json")
            backend = AMQPBackend(serializer="indented", serializers=serializers)

        Args:
            name: what ``serializer`` and ``accept`` of a backend call it; without a slash.
            dumps: returns a value as ``bytes`` or ``str``. Whatever it raises becomes an ``EncodeError``.
            loads: returns the value in a document, which it gets as ``bytes`` when ``content_encoding`` is
                ``binary``, else as ``str``. Whatever it raises becomes a ``DecodeError``.
            content_type: the media type of its documents, which no other serializer may have.
            content_encoding: ``utf-8`` or ``binary``.
            upper_bound: gets a document as ``loads`` does, and returns a number of lists and dicts that the document
                cannot exceed. Must be fast: it spares small documents the search for what is nested too deep.
            exceeds: gets a document and a number, and tells whether the document really holds more lists and dicts
                than that. Without it only the depth is limited.

        Raises:
            ConfigurationError: an argument that cannot work, named.
        """
        validation.non_empty("the name of a serializer", name)
        media_type = validation.non_empty("content_type", content_type).lower()
        if "/" in name or "/" not in media_type or ";" in media_type:
            raise ConfigurationError(
                f"a serializer needs a name without a slash and a media type, not {name!r} and {content_type!r}"
            )
        for other in self._serializers.values():
            if other.content_type == media_type and other.name != name:
                raise ConfigurationError(
                    f"{media_type!r} is the content type of the serializer {other.name!r}, and a reader cannot tell "
                    "two apart: register under that name to replace it, or choose another content type"
                )
        if media_type == BATCH_MEDIA_TYPE:
            raise ConfigurationError(f"{media_type!r} is the content type of batches: choose another one")
        if content_encoding not in ("utf-8", "binary"):
            raise ConfigurationError(f"content_encoding must be 'utf-8' or 'binary', not {content_encoding!r}")
        for parameter, function in {"dumps": dumps, "loads": loads, "upper_bound": upper_bound}.items():
            if not callable(function):
                raise ConfigurationError(f"{parameter} of serializer {name!r} must be a callable, not {function!r}")
        validation.optional_callable("exceeds", exceeds)
        self._serializers[name] = Serializer(name, dumps, loads, media_type, content_encoding, upper_bound, exceeds)

    def register_exception(self, cls: type[Exception], *, name: str | None = None, module: str | None = None) -> None:
        """Let failures of class ``cls`` be rebuilt, by calling ``cls(*args)``, instead of becoming a ``RemoteError``.

        Example::

            class PaymentRefused(Exception):
                pass

            serializers.register_exception(PaymentRefused)
            serializers.register_exception(PaymentRefused, module="billing.old")  # where an older worker has it

        Args:
            cls: a subclass of ``Exception``.
            name: what the worker calls the class (its qualified name), where that is not its name here.
            module: where the worker has the class, where that is not its module here.

        Raises:
            ConfigurationError: ``cls`` is no subclass of ``Exception``.
        """
        if not issubclass(cls, Exception):
            raise ConfigurationError(f"only subclasses of Exception can be rebuilt, not {cls!r}")
        self.exceptions[module or cls.__module__, name or cls.__qualname__] = cls

    def find(self, name: str) -> Serializer:
        """Return the serializer with this name or content type.

        Example::

            body = serializers.find("msgpack").write({"answer": 42})

        Raises:
            ConfigurationError: there is none.
        """
        validation.non_empty("a serializer", name)
        for serializer in self._serializers.values():
            if name in (serializer.name, serializer.content_type):
                return serializer
        reason = _ABSENT.get(name, f"known are {', '.join(sorted(self._serializers))}")
        raise ConfigurationError(f"there is no serializer {name!r}: {reason}")
