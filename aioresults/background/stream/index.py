"""What a stream holds, by task id: pure, undecoded, bounded by bytes and count.

There are two levels. Of the newest results the documents are kept as they came; of older ones only where in the stream
they are. Beyond that, the oldest ids are dropped; what was dropped is below ``floor``. What is older than ``max_age``
is as if it were not there.

There may be a million ids, so the reports of a task are not objects but bytes: one record, or a list of them. A record
is a header (offset, seconds since the epoch, what the document is) and the document; one without its document is a
header alone. Ids are kept in the order of their last report, so what has to go stands in front. It goes a sixteenth at
a time: a dict that loses its first keys one by one is slow to find the next.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, filterfalse, islice
from time import time as wall_clock
from typing import Final, NamedTuple

from aioresults.serialization import Document

_HEADER: Final = struct.Struct(">QIB")
_SIZE: Final = _HEADER.size
#: What a record may be other than a document of a known kind: a tombstone, and a document that is only in the stream.
_FORGOTTEN: Final = 0
_ELSEWHERE: Final = 1
_FIRST_KIND: Final = 2
_LAST_KIND: Final = 255
#: Reports of one task that are kept; those in the middle go first: the first and the last say most.
HISTORY: Final = 1000
#: Reports between two looks for what is too old.
_SWEEP: Final = 1024

_Entry = bytes | list[bytes]


class Position(NamedTuple):
    """Where a message is in the stream, and when it came there, in seconds since the epoch."""

    offset: int
    time: int


class Index:
    """The reports that a stream holds.

    Args:
        max_bytes: of documents.
        max_count: of task ids.
        max_age: seconds; None for no limit.
        keep: whether a task must stay, with its documents, since somebody is being told of it. They may be more than
            the bounds allow.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        max_bytes: int,
        max_count: int,
        max_age: float | None,
        *,
        keep: Callable[[str], bool] = lambda _: False,
        clock: Callable[[], float] = wall_clock,
    ) -> None:
        self._max_bytes = self._strip_above = max_bytes
        self._max_count = self._drop_above = max_count
        self._max_age = max_age
        self._keep = keep
        self._clock = clock
        self._kinds: list[tuple[str | None, str | None]] = []
        self._here: dict[str, _Entry] = {}
        self._elsewhere: dict[str, _Entry] = {}
        self._until_sweep = _SWEEP
        #: The size of all documents.
        self.bytes = 0
        #: Of an id that is not here the stream may hold reports before this offset, and none from it on.
        self.floor = 0
        self._floor_time = 0

    def __len__(self) -> int:
        """How many ids are known."""
        return len(self._here) + len(self._elsewhere)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._here or task_id in self._elsewhere

    @property
    def is_complete(self) -> bool:
        """Whether every id is known of which the stream holds something that counts."""
        return self.floor == 0 or self._floor_time < self._oldest()

    # What is read

    def add(self, position: Position, document: Document) -> bool:
        """Take in a report that was read at the end of the stream; return whether it is young enough to count."""
        task_id = document.task_id
        record = self._record(position, document)
        if task_id is None or record is None or position.time < self._oldest():
            return False
        entry = self._here.pop(task_id, None)
        if entry is None:
            entry = self._elsewhere.pop(task_id, None)
        self.bytes += _size(record)
        if entry is None:
            self._here[task_id] = record
        elif isinstance(entry, list):
            entry.append(record)
            if len(entry) > HISTORY:
                self.bytes -= _size(entry.pop(HISTORY // 2))
            self._here[task_id] = entry
        else:
            self._here[task_id] = [entry, record]
        self._make_room()
        return True

    def forget(self, position: Position, task_id: str) -> None:
        """Take in a tombstone: what came before it counts no longer."""
        if self._pop(task_id) is None and self.is_complete:
            return  # there is nothing of this task anywhere before
        self._elsewhere[task_id] = _HEADER.pack(position.offset, position.time, _FORGOTTEN)
        self._make_room()

    def clear(self) -> None:
        """Forget everything: it is another stream now."""
        self._here.clear()
        self._elsewhere.clear()
        self.bytes = self.floor = self._floor_time = 0

    # What is asked

    def documents(self, task_id: str) -> list[Document] | None:
        """Return the documents of a task in order, none if it is unknown; None when some have to be fetched first."""
        entry = self._here.get(task_id)
        if entry is None:
            entry = self._elsewhere.get(task_id)
            if entry is None:
                return []
        documents = []
        for record in self._valid(entry):
            kind = record[_SIZE - 1]
            if kind == _ELSEWHERE:
                return None
            content_type, content_encoding = self._kinds[kind - _FIRST_KIND]
            documents.append(Document(task_id, content_type, content_encoding, record[_SIZE:]))
        return documents

    def missing(self, task_id: str) -> list[int]:
        """Return the offsets of the messages from which documents of a task have to be fetched."""
        entry = self._here.get(task_id) or self._elsewhere.get(task_id)
        return [] if entry is None else sorted({_offset(each) for each in self._valid(entry) if _is_elsewhere(each)})

    def _valid(self, entry: _Entry) -> Iterator[bytes]:
        """Yield the records that count: those after the last tombstone, and not too old."""
        oldest = self._oldest()
        records = [entry] if isinstance(entry, bytes) else entry
        for record in records:
            _, time, kind = _HEADER.unpack_from(record)
            if kind != _FORGOTTEN and time >= oldest:
                yield record

    def _oldest(self) -> int:
        """Return the first second that counts; rounded down, because of that second a report may be the last."""
        return 0 if self._max_age is None else int(self._clock() - self._max_age)

    # What is read again

    def restore(self, position: Position, task_id: str, documents: Iterable[Document]) -> None:
        """Put the documents of a task from one message back in their place; none: the message is gone for good."""
        entry = self._here.get(task_id) or self._elsewhere.get(task_id) or []
        records = [entry] if isinstance(entry, bytes) else entry
        if not any(_is_elsewhere(each) and _offset(each) == position.offset for each in records):
            return  # it is here, or was forgotten meanwhile
        self._pop(task_id)
        before = [each for each in records if _offset(each) < position.offset]
        after = [each for each in records if _offset(each) > position.offset]
        self._put_back(task_id, before, [(position, each) for each in documents], after)

    def prepend(self, task_id: str, read: Iterable[tuple[Position, Document]]) -> None:
        """Take in the reports of a task that were found below ``floor``, before those that are here."""
        entry = self._pop(task_id) or []
        records = [entry] if isinstance(entry, bytes) else entry
        if records:
            first = -1 if records[0][_SIZE - 1] == _FORGOTTEN else _offset(records[0])
            read = [each for each in read if each[0].offset < first]
        self._put_back(task_id, [], read, records)

    def _put_back(
        self, task_id: str, before: list[bytes], read: Iterable[tuple[Position, Document]], after: list[bytes]
    ) -> None:
        found = [record for each in read if (record := self._record(*each)) is not None]
        records = [*before, *found, *after]
        self.bytes += sum(map(_size, records))
        if records:
            self._here[task_id] = records[0] if len(records) == 1 else records
        self._make_room()

    def _pop(self, task_id: str) -> _Entry | None:
        """Take a task out, with its bytes."""
        entry = self._here.pop(task_id, None)
        if entry is None:
            return self._elsewhere.pop(task_id, None)
        self.bytes -= _bytes_of(entry)
        return entry

    def _record(self, position: Position, document: Document) -> bytes | None:
        """Return a report as it is kept; None for one that is not, being of the 255th kind."""
        kind = (document.content_type, document.content_encoding)
        try:
            number = self._kinds.index(kind) + _FIRST_KIND
        except ValueError:
            number = len(self._kinds) + _FIRST_KIND
            if number > _LAST_KIND:
                return None  # no honest writers are of so many kinds
            self._kinds.append(kind)
        return _HEADER.pack(*position, number) + document.body

    # What has to go

    def _make_room(self) -> None:
        if self.bytes > self._strip_above:
            self._strip()
        if len(self) > self._drop_above:
            self._drop()
        self._until_sweep -= 1
        if not self._until_sweep:
            self._until_sweep = _SWEEP
            self._sweep()

    def _strip(self) -> None:
        """Take the documents of the oldest tasks away."""
        target, stripped = self._max_bytes - self._max_bytes // 16, []
        for task_id, entry in self._here.items():
            if self.bytes <= target:
                break
            if not self._keep(task_id):
                self.bytes -= _bytes_of(entry)
                stripped.append(task_id)
        for task_id in stripped:
            entry = self._here.pop(task_id)
            self._elsewhere[task_id] = _strip(entry) if isinstance(entry, bytes) else [_strip(each) for each in entry]
        # Where all of them must stay, it is not to be tried for each that comes.
        self._strip_above = max(self._max_bytes, self.bytes + self._max_bytes // 16)

    def _drop(self) -> None:
        """Drop the oldest tasks."""
        too_many = len(self) - (self._max_count - self._max_count // 16)
        for task_id in list(islice(filterfalse(self._keep, self._oldest_first()), too_many)):
            entry = self._pop(task_id)
            assert entry is not None
            offset, time, _ = _HEADER.unpack_from(_last(entry))
            self.floor, self._floor_time = max(self.floor, offset + 1), max(self._floor_time, time)
        self._drop_above = max(self._max_count, len(self) + self._max_count // 16)  # as above

    def _sweep(self) -> None:
        """Drop the tasks whose reports are too old to count."""
        oldest, expired = self._oldest(), []
        for task_id in self._oldest_first():
            entry = self._elsewhere.get(task_id) or self._here[task_id]
            if _HEADER.unpack_from(_last(entry))[1] >= oldest:
                break
            expired.append(task_id)
        for task_id in expired:
            self._pop(task_id)

    def _oldest_first(self) -> Iterator[str]:
        return chain(self._elsewhere, self._here)


def _offset(record: bytes) -> int:
    offset: int = _HEADER.unpack_from(record)[0]
    return offset


def _is_elsewhere(record: bytes) -> bool:
    return record[_SIZE - 1] == _ELSEWHERE


def _size(record: bytes) -> int:
    """Return the size of a record's document."""
    return len(record) - _SIZE


def _last(entry: _Entry) -> bytes:
    return entry if isinstance(entry, bytes) else entry[-1]


def _bytes_of(entry: _Entry) -> int:
    return _size(entry) if isinstance(entry, bytes) else sum(map(_size, entry))


def _strip(record: bytes) -> bytes:
    """Return a record without its document."""
    offset, time, kind = _HEADER.unpack_from(record)
    return _HEADER.pack(offset, time, kind if kind == _FORGOTTEN else _ELSEWHERE)
