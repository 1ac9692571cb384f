"""One shared stream: everyone reads every result, again and again."""

from aioresults.routing.result_stream.routing import ResultStream

__all__ = ["ResultStream"]
