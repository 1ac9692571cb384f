"""The tests, and the harness they share: `rabbitmq` (private nodes), `proxy` (a network that fails), `process`."""
