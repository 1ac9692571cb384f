"""What a stream holds, by task id: pure, undecoded, bounded by bytes and count.

There are two levels. Of the newest results the documents are kept as they came; of older ones only where in the stream
they are. Beyond that, the oldest ids are dropped; what was dropped is below ``floor``. What is older than ``max_age``
is as if it were not there.

There may be a million ids, so the reports of a task are not objects but bytes: one record, or a list of them. A record
is a header (offset, seconds since the epoch, what the document is) and the document; one without its document is a
header alone. Ids are kept in the order of their last report, so what has to go stands in front. It goes a sixteenth at
a time: a dict that loses its first keys one by one is slow to find the next.

Which report of a task counts is found out when somebody asks, and remembered: each report is decoded once for that, so
asking costs the same however often a task has reported.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, filterfalse, islice
from time import time as wall_clock
from typing import Final, NamedTuple, Protocol

from aioresults import states
from aioresults.serialization import Document
from aioresults.waiting.memory import Precedence

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


class Judge(Precedence, Protocol):
    """What tells which report of a task counts."""

    def status_of(self, document: Document) -> str | None:
        """Return the state that a document reports; None when it cannot be read."""


class Keeper(Protocol):
    """What says which tasks must stay in the index."""

    def must_stay(self, task_id: str) -> bool:
        """Return whether somebody is being told of a task."""


class _History(list[bytes]):
    """The records of a task that has reported more than once, and which of them counts, as far as they were judged."""

    __slots__ = ("best", "judged", "status", "unreadable")

    def __init__(self, records: Iterable[bytes]) -> None:
        super().__init__(records)
        self._start_over()

    def _start_over(self) -> None:
        #: How many records, from the first on, were judged.
        self.judged = 0
        #: The record that counts among those, and the state that it reports.
        self.best: int | None = None
        self.status = ""
        #: The last one among those that cannot be read.
        self.unreadable: int | None = None

    def counting(self, index: Index, task_id: str, judge: Judge) -> int | None:
        """Return the number of the record that counts, or that cannot be read where no result is known; None for none.

        Raises:
            _Elsewhere: a document has to be fetched before that can be told.
        """
        oldest = index.oldest()
        known = [number for number in (self.best, self.unreadable) if number is not None]
        if any(_time(self[number]) < oldest for number in known):
            self._start_over()
        for number in range(self.judged, len(self)):
            record = self[number]
            if record[_SIZE - 1] != _FORGOTTEN and _time(record) >= oldest:
                status = judge.status_of(index.document(task_id, record))
                if status is None:
                    self.unreadable = number
                elif self.best is None or judge.supersedes(status, self.status):
                    self.best, self.status = number, status
            self.judged = number + 1
        is_ready = self.best is not None and self.status in states.READY_STATES
        return self.best if self.unreadable is None or is_ready else self.unreadable

    def drop_one(self) -> bytes:
        """Drop a record in the middle, and return it."""
        dropped = HISTORY // 2
        while dropped in (self.best, self.unreadable):
            dropped += 1
        self.judged -= dropped < self.judged
        if self.best is not None:
            self.best -= dropped < self.best
        if self.unreadable is not None:
            self.unreadable -= dropped < self.unreadable
        return self.pop(dropped)

    def stripped(self) -> _History:
        """Return it without the documents."""
        history = _History(map(_strip, self))
        history.judged, history.best, history.status = self.judged, self.best, self.status
        history.unreadable = self.unreadable
        return history


class _Elsewhere(Exception):
    """A document has to be fetched first."""


_Entry = bytes | _History


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
        keeper: says which tasks must stay, with their documents. They may be more than the bounds allow.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        max_bytes: int,
        max_count: int,
        max_age: float | None,
        *,
        keeper: Keeper | None = None,
        clock: Callable[[], float] = wall_clock,
    ) -> None:
        self._max_bytes = self._strip_above = max_bytes
        self._max_count = self._drop_above = max_count
        self._max_age = max_age
        self._keeper = keeper
        self._clock = clock
        self._kinds: list[tuple[str | None, str | None]] = []
        self._here: dict[str, _Entry] = {}
        self._elsewhere: dict[str, _Entry] = {}
        self._until_sweep = _SWEEP
        #: The size of all documents.
        self.bytes: int = 0
        #: Of an id that is not here the stream may hold reports before this offset, and none from it on.
        self.floor: int = 0
        self._floor_time = 0

    def __len__(self) -> int:
        """How many ids are known."""
        return len(self._here) + len(self._elsewhere)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._here or task_id in self._elsewhere

    @property
    def is_complete(self) -> bool:
        """Whether every id is known of which the stream holds something that counts."""
        return self.floor == 0 or self._floor_time < self.oldest()

    # What is read

    def add(self, position: Position, document: Document) -> bool:
        """Take in a report that was read at the end of the stream; return whether it is young enough to count."""
        task_id = document.task_id
        record = self._record(position, document)
        if task_id is None or record is None or position.time < self.oldest():
            return False
        entry = self._here.pop(task_id, None)
        if entry is None:
            entry = self._elsewhere.pop(task_id, None)
        self.bytes += _size(record)
        if entry is None:
            self._here[task_id] = record
        elif isinstance(entry, _History):
            entry.append(record)
            if len(entry) > HISTORY:
                self.bytes -= _size(entry.drop_one())
            self._here[task_id] = entry
        else:
            self._here[task_id] = _History((entry, record))
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
        entry = self._here.get(task_id) or self._elsewhere.get(task_id)
        try:
            return [] if entry is None else [self.document(task_id, record) for record in self._valid(entry)]
        except _Elsewhere:
            return None

    def latest(self, task_id: str, judge: Judge, *, since: int = 0) -> list[Document] | None:
        """Return the document of the report that counts, none if there is none; None when some must be fetched first.

        Args:
            since: only if that report has this offset or a later one.
        """
        entry = self._here.get(task_id) or self._elsewhere.get(task_id)
        if entry is None or isinstance(entry, bytes):
            return self.documents(task_id)
        try:
            number = entry.counting(self, task_id, judge)
            if number is None or _offset(entry[number]) < since:
                return []
            return [self.document(task_id, entry[number])]
        except _Elsewhere:
            return None

    def document(self, task_id: str, record: bytes) -> Document:
        """Return the document in a record; raises ``_Elsewhere`` when it is only in the stream."""
        kind = record[_SIZE - 1]
        if kind == _ELSEWHERE:
            raise _Elsewhere
        content_type, content_encoding = self._kinds[kind - _FIRST_KIND]
        return Document(task_id, content_type, content_encoding, record[_SIZE:])

    def missing(self, task_id: str) -> list[int]:
        """Return the offsets of the messages from which documents of a task have to be fetched."""
        entry = self._here.get(task_id) or self._elsewhere.get(task_id)
        return [] if entry is None else sorted({_offset(each) for each in self._valid(entry) if _is_elsewhere(each)})

    def _valid(self, entry: _Entry) -> Iterator[bytes]:
        """Yield the records that count: those after the last tombstone, and not too old."""
        oldest = self.oldest()
        for record in _records(entry):
            _, time, kind = _HEADER.unpack_from(record)
            if kind != _FORGOTTEN and time >= oldest:
                yield record

    def oldest(self) -> int:
        """Return the first second that counts; rounded down: a report of that very second may be the last to count."""
        return 0 if self._max_age is None else int(self._clock() - self._max_age)

    # What is read again

    def restore(self, position: Position, task_id: str, documents: Iterable[Document]) -> None:
        """Put the documents of a task from one message back in their place; none: the message is gone for good."""
        entry = self._here.get(task_id) or self._elsewhere.get(task_id)
        records = _records(entry)
        if not any(_is_elsewhere(each) and _offset(each) == position.offset for each in records):
            return  # it is here, or was forgotten meanwhile
        self._pop(task_id)
        before = [each for each in records if _offset(each) < position.offset]
        after = [each for each in records if _offset(each) > position.offset]
        self._put_back(task_id, before, [(position, each) for each in documents], after)

    def prepend(self, task_id: str, read: Iterable[tuple[Position, Document]]) -> None:
        """Take in the reports of a task that were found below ``floor``, before those that are here."""
        records = _records(self._pop(task_id))
        if records:
            first = -1 if records[0][_SIZE - 1] == _FORGOTTEN else _offset(records[0])
            read = [each for each in read if each[0].offset < first]
        self._put_back(task_id, [], read, records)

    def _put_back(
        self, task_id: str, before: list[bytes], read: Iterable[tuple[Position, Document]], after: Sequence[bytes]
    ) -> None:
        found = [record for each in read if (record := self._record(*each)) is not None]
        records = [*before, *found, *after]
        self.bytes += sum(map(_size, records))
        if records:
            self._here[task_id] = records[0] if len(records) == 1 else _History(records)
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

    def _must_stay(self, task_id: str) -> bool:
        return self._keeper is not None and self._keeper.must_stay(task_id)

    def _strip(self) -> None:
        """Take the documents of the oldest tasks away."""
        target, stripped = self._max_bytes - self._max_bytes // 16, []
        for task_id, entry in self._here.items():
            if self.bytes <= target:
                break
            if not self._must_stay(task_id):
                self.bytes -= _bytes_of(entry)
                stripped.append(task_id)
        for task_id in stripped:
            entry = self._here.pop(task_id)
            self._elsewhere[task_id] = _strip(entry) if isinstance(entry, bytes) else entry.stripped()
        # Where all of them must stay, it is not to be tried for each that comes.
        self._strip_above = max(self._max_bytes, self.bytes + self._max_bytes // 16)

    def _drop(self) -> None:
        """Drop the oldest tasks."""
        too_many = len(self) - (self._max_count - self._max_count // 16)
        for task_id in list(islice(filterfalse(self._must_stay, self._oldest_first()), too_many)):
            entry = self._pop(task_id)
            assert entry is not None
            offset, time, _ = _HEADER.unpack_from(_last(entry))
            self.floor, self._floor_time = max(self.floor, offset + 1), max(self._floor_time, time)
        self._drop_above = max(self._max_count, len(self) + self._max_count // 16)  # as above

    def _sweep(self) -> None:
        """Drop the tasks whose reports are too old to count."""
        oldest, expired = self.oldest(), []
        for task_id in self._oldest_first():
            entry = self._elsewhere.get(task_id) or self._here[task_id]
            if _HEADER.unpack_from(_last(entry))[1] >= oldest:
                break
            expired.append(task_id)
        for task_id in expired:
            self._pop(task_id)

    def _oldest_first(self) -> Iterator[str]:
        return chain(self._elsewhere, self._here)


def _records(entry: _Entry | None) -> Sequence[bytes]:
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, bytes) else entry


def _offset(record: bytes) -> int:
    offset: int = _HEADER.unpack_from(record)[0]
    return offset


def _time(record: bytes) -> int:
    time: int = _HEADER.unpack_from(record)[1]
    return time


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
