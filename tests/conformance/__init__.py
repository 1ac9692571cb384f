"""One suite for every broker and every routing."""
