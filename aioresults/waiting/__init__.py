"""Who waits for which task, and which reports are here and were not asked for yet: pure logic, no I/O."""
