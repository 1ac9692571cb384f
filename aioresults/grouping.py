"""The part of a backend that keeps groups: Celery's calls, which raised ``NotImplementedError`` there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from aioresults.background.lifetime import Lifetime
from aioresults.errors import ConfigurationError, DecodeError
from aioresults.group_result import GroupResult

if TYPE_CHECKING:
    from aioresults.backend import AMQPBackend


class Grouping:
    """``save_group`` and its kin, the same with every routing.

    A group is kept in a durable queue of its own, which expires ``expires`` seconds after somebody last saved it or
    looked.
    """

    _lifetime: Lifetime

    async def save_group(self, group_id: str, result: Any) -> None:
        """Store which members a group has, in place of what was stored before under this id.

        Args:
            result: a ``GroupResult``, or anything whose ``as_tuple()`` is Celery's form of a group; or that form.

        Raises:
            ConfigurationError: it is no group, or of another id.
            StoreError, BrokerUnavailable, EncodeError, ChannelError: as ``store_result``.

        Cancelled: withdrawn if it was not sent yet, else stored or unknown.
        """
        self._lifetime.check()
        form = result.as_tuple() if hasattr(result, "as_tuple") else result
        try:
            group = GroupResult.from_tuple(form, cast("AMQPBackend", self))
        except DecodeError as error:
            raise ConfigurationError(f"a group is a GroupResult, or Celery's form of one, not {result!r}") from error
        if group.id != group_id:
            raise ConfigurationError(f"the id of the group is {group.id!r}, so it cannot be saved as {group_id!r}")
        await self._lifetime.groups.save(group_id, form)

    async def restore_group(self, group_id: str, cache: bool = True) -> GroupResult | None:
        """Return a group that was saved, in this process or another; None when there is none.

        Args:
            cache: whether what this process has seen before will do.

        Raises:
            DecodeError: what is there cannot be read; it stays there.
            BrokerUnavailable: there is no session, and none within ``rpc_timeout``.
        """
        self._lifetime.check()
        form = await self._lifetime.groups.restore(group_id, cache=cache)
        return None if form is None else GroupResult.from_tuple(form, cast("AMQPBackend", self))

    async def reload_group_result(self, group_id: str) -> GroupResult | None:
        """Return a group as the broker holds it now, and remember that; raises as ``restore_group``."""
        self._lifetime.check()
        self._lifetime.groups.discard(group_id)
        return await self.restore_group(group_id)

    async def delete_group(self, group_id: str) -> None:
        """Delete a saved group; the results of its members stay. One that is not there is no error.

        Cancelled, the deletion goes on to its end.

        Raises:
            BrokerUnavailable: not known to be deleted, within ``rpc_timeout``.
            ChannelError: the broker refused it.
        """
        self._lifetime.check()
        await self._lifetime.to_its_end(self._lifetime.groups.delete(group_id))
