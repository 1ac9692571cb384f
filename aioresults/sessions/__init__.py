"""Live sessions with the broker, channels for requests to it, and the outbox of reports to publish."""
