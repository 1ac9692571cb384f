"""Adapters to what others use: frameworks, task queues, test runners. The core never imports them."""
