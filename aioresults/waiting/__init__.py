"""Waits by task, and what is remembered of tasks that nobody waits for: pure logic, no I/O."""
