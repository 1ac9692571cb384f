"""A Celery project as there are many; it knows nothing of aioresults: celery -A celery_project worker"""
# mypy: allow-untyped-decorators

import os

from celery import Celery

app = Celery("celery_project", broker=os.environ.get("AMQP_URL", "amqp://guest:guest@localhost//"), backend="rpc://")
app.conf.task_default_queue = "texts"


@app.task
def count_words(text: str) -> int:
    if not text.strip():
        raise ValueError("there are no words in it")
    return len(text.split())
