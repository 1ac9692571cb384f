"""Who waits for which task, and what is remembered of the tasks that nobody waits for: pure logic, no I/O."""
