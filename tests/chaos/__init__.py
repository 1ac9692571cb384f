"""Random faults under load: `python -m tests.chaos`."""
