"""What exchanges and queues have in common: they are values, and act only when they are bound to a channel."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from aioresults.errors import NotBoundError
from aioresults.transport.base import Channel


class Entity:
    """An immutable description of something on the broker; ``entity(channel)`` is a copy that can act.

    Equality and hash do not ask which channel it is bound to.
    """

    #: The names of what describes it.
    attrs: ClassVar[tuple[str, ...]] = ()

    #: Those of them that make two entities different.
    compared: ClassVar[tuple[str, ...]] = ()

    name: str
    channel: Channel | None

    def __eq__(self, other: object) -> bool:
        # A queue that is not cached equals the plain one: one is the base of the other, and the broker cannot tell.
        if not isinstance(other, Entity) or self.compared is not other.compared:
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.compared)

    def __hash__(self) -> int:
        return hash(self.name)

    def __call__(self, channel: Channel) -> Self:
        """Return a copy bound to ``channel``."""
        return self.bind(channel)

    def bind(self, channel: Channel) -> Self:
        """Return a copy bound to ``channel``; a copy that was bound to another one is none the worse for it."""
        return self.copy(channel=channel)

    @property
    def is_bound(self) -> bool:
        """Whether it can act."""
        return self.channel is not None

    @property
    def can_cache_declaration(self) -> bool:
        """Whether it stays once it was declared, so that declaring it again in the same session is idle."""
        raise NotImplementedError

    @classmethod
    def of(cls, entity: Entity) -> Self:
        """Return ``entity`` as one of this class: itself, if it is."""
        return entity if type(entity) is cls else cls(**entity.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Return what describes it, by the names in ``attrs``; ``type(self)(**that)`` is an equal one, unbound."""
        return {name: getattr(self, name) for name in self.attrs}

    def copy(self, **changes: Any) -> Self:
        """Return a copy with other values for some of ``attrs``; they are taken as they are."""
        # By hand: dataclasses.replace would check everything again, and a queue is copied twice for every result.
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, **changes)
        return copy

    def _bound(self) -> Channel:
        """Return the channel; ``NotBoundError`` when there is none."""
        channel = self.channel
        if channel is None:
            kind = type(self).__name__
            raise NotBoundError(f"{kind} {self.name!r} is not bound to a channel; bind(channel) returns a copy that is")
        return channel
