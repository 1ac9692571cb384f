"""Reading one shared stream: its end, as it grows (``tail``); what was read (``index``); what has to be read again
(``recall``); and the calls that only look (``lookup``).
"""

from aioresults.stream.index import Index
from aioresults.stream.lookup import StreamLookup
from aioresults.stream.recall import Recall
from aioresults.stream.tail import TOMBSTONE, Tail

__all__ = ["TOMBSTONE", "Index", "Recall", "StreamLookup", "Tail"]
