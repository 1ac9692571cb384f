"""Which serializers and which exception classes a codec knows: an instance, so that nothing is known globally."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aioresults.errors import ConfigurationError
from aioresults.serialization import safe_yaml
from aioresults.serialization.marked_json import json_serializer
from aioresults.serialization.messagepack import msgpack_serializer
from aioresults.serialization.serializer import Serializer

_NEEDS_PYYAML: Final = "it needs PyYAML: install aioresults[yaml]"
_RUNS_CODE: Final = "it runs code that a message brings along, so it exists only where you register it"
_ABSENT: Final = {
    "yaml": _NEEDS_PYYAML,
    "application/x-yaml": _NEEDS_PYYAML,
    "pickle": _RUNS_CODE,
    "application/x-python-serialize": _RUNS_CODE,
}


class Serializers:
    """The serializers by name and content type, and the exception classes that may be rebuilt.

    Knows ``json`` and ``msgpack``, and ``yaml`` where PyYAML is installed. Register before a codec is made of it;
    exception classes may follow at any time.
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
    ) -> None:
        """Add a serializer, or replace the one of that name.

        ``dumps`` and ``loads`` deal in ``bytes`` when ``content_encoding`` is ``binary``, else in ``str``. What they
        raise becomes EncodeError and DecodeError.
        """
        if not name or "/" not in content_type or ";" in content_type:
            raise ConfigurationError(f"a serializer needs a name and a media type, not {name!r} and {content_type!r}")
        if content_encoding not in ("utf-8", "binary"):
            raise ConfigurationError(f"content_encoding must be 'utf-8' or 'binary', not {content_encoding!r}")
        self._serializers[name] = Serializer(name, dumps, loads, content_type.lower(), content_encoding)

    def register_exception(self, cls: type[Exception], *, name: str | None = None, module: str | None = None) -> None:
        """Let failures of class ``cls`` be rebuilt, by calling ``cls(*args)``, instead of becoming a RemoteError.

        ``name`` and ``module`` are what the worker calls the class, where that is not its name here.
        """
        if not issubclass(cls, Exception):
            raise ConfigurationError(f"only subclasses of Exception can be rebuilt, not {cls!r}")
        self.exceptions[module or cls.__module__, name or cls.__qualname__] = cls

    def find(self, name: str) -> Serializer:
        """Return the serializer called ``name``, which may be its content type; ConfigurationError if there is none."""
        for serializer in self._serializers.values():
            if name in (serializer.name, serializer.content_type):
                return serializer
        reason = _ABSENT.get(name, f"known are {', '.join(sorted(self._serializers))}")
        raise ConfigurationError(f"there is no serializer {name!r}: {reason}")
