"""Live sessions with the broker, channels for what is asked of it, and the outbox of what is published."""
