"""One file per module, no broker; and the tests of the harness itself."""
