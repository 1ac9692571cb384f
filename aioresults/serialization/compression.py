"""Compression by the names that kombu gives it, and decompression that ends at a limit.

The header ``compression`` of a message names it. zlib's header says ``application/x-gzip`` while kombu writes zlib's
own format; both formats are read. zstd needs Python 3.14 or the extra ``aioresults[zstd]``.
"""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final, Protocol

from aioresults.errors import ConfigurationError, DecodeError

#: The header of a message that names its compression.
COMPRESSION_HEADER: Final = "compression"

_LZMA_MEMORY: Final = 80 * 2**20  # bytes; the dictionary of the highest preset needs 65 MiB
_ZSTD_WINDOW: Final = 26  # log2 of bytes


class _Decompressor(Protocol):
    """The part that the decompressors of the standard library have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Compression:
    """One way to compress a body."""

    name: str
    #: What the header ``compression`` of a message says.
    header: str
    compress: Callable[[bytes], bytes]
    decompressor: Callable[[], _Decompressor]

    def decompress(self, body: bytes, limit: int) -> bytes:
        """Return ``body`` decompressed; DecodeError if it is damaged, or larger than ``limit`` bytes."""
        decompressor = self.decompressor()
        try:
            data = decompressor.decompress(body, limit + 1)
        except Exception as error:  # every library has an error of its own
            raise DecodeError(f"the body is not readable as {self.name} ({type(error).__name__})") from error
        if len(data) > limit:
            raise DecodeError(f"the body is larger than {limit} bytes when decompressed")
        if not decompressor.eof:
            raise DecodeError(f"the {self.name} body is truncated")
        if decompressor.unused_data:
            raise DecodeError(f"there are bytes after the end of the {self.name} body")
        return data


_ZLIB: Final = Compression(
    "zlib", "application/x-gzip", zlib.compress, lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
)
_BZ2: Final = Compression("bz2", "application/x-bz2", bz2.compress, bz2.BZ2Decompressor)
_LZMA: Final = Compression(
    "lzma",
    "application/x-lzma",
    lzma.compress,
    lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY),
)


def _zstd_library() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _compress_zstd(body: bytes) -> bytes:
    return bytes(_zstd_library().compress(body))


def _zstd_decompressor() -> _Decompressor:
    zstd = _zstd_library()
    decompressor: _Decompressor = zstd.ZstdDecompressor(
        options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW}
    )
    return decompressor


_ZSTD: Final = Compression("zstd", "application/zstd", _compress_zstd, _zstd_decompressor)

_BY_NAME: Final = {
    "zlib": _ZLIB, "gzip": _ZLIB, "application/x-gzip": _ZLIB,
    "bz2": _BZ2, "bzip2": _BZ2, "bzip": _BZ2, "application/x-bz2": _BZ2,
    "lzma": _LZMA, "xz": _LZMA, "application/x-lzma": _LZMA,
    "zstd": _ZSTD, "zstandard": _ZSTD, "application/zstd": _ZSTD,
}  # fmt: skip


def _is_installed(compression: Compression) -> bool:
    if compression is not _ZSTD or sys.version_info >= (3, 14):
        return True
    return find_spec("backports") is not None and find_spec("backports.zstd") is not None


def find_compression(name: str) -> Compression:
    """Return the compression called ``name``; ConfigurationError if there is none."""
    compression = _BY_NAME.get(name)
    if compression is None:
        raise ConfigurationError(f"there is no compression {name!r}: known are zlib, bz2, lzma, zstd")
    if not _is_installed(compression):
        raise ConfigurationError("compression 'zstd' needs Python 3.14: or install aioresults[zstd]")
    return compression


def compression_of(header: object) -> Compression:
    """Return the compression that the header of a message names; DecodeError if it is unknown here."""
    compression = _BY_NAME.get(header) if isinstance(header, str) else None
    if compression is None or not _is_installed(compression):
        shown = repr(header[:100]) if isinstance(header, str) else f"of type {type(header).__name__}"
        raise DecodeError(f"unknown compression {shown}")
    return compression
