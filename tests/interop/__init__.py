"""This package and real Celery, through a real broker: each reads what the other stores."""
