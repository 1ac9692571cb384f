"""What may go wrong between a backend and its broker, done on purpose."""
