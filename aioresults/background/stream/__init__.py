"""Reading one shared stream: its end, as it grows (``tail``); what was read (``index``); what has to be read again
(``recall``); and the calls that only look (``lookup``).
"""

from aioresults.background.stream.index import Index
from aioresults.background.stream.lookup import StreamLookup
from aioresults.background.stream.recall import Recall
from aioresults.background.stream.tail import TOMBSTONE, Tail

__all__ = ["TOMBSTONE", "Index", "Recall", "StreamLookup", "Tail"]
