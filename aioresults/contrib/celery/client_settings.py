"""What the configuration of a Celery application says about sending tasks, as parameters of ``CeleryClient``."""

from __future__ import annotations

from typing import Any

from aioresults.retry import RetryPolicy


def client_settings(app: Any) -> dict[str, Any]:
    """Return the parameters of a ``CeleryClient`` that sends as ``app`` does; settings that it lacks are left out."""
    conf = app.conf
    found = {
        "queue": getattr(conf, "task_default_queue", None),
        "routes": getattr(conf, "task_routes", None),
        "serializer": getattr(conf, "task_serializer", None),
        "compression": getattr(conf, "task_compression", None),
        "delivery_mode": getattr(conf, "task_default_delivery_mode", None),
        "priority": getattr(conf, "task_default_priority", None),
        "retry_policy": _retry_policy(conf),
        "control_exchange": getattr(conf, "control_exchange", None),
    }
    return {name: value for name, value in found.items() if value is not None}


def _retry_policy(conf: Any) -> RetryPolicy | dict[str, Any] | None:
    if not getattr(conf, "task_publish_retry", True):
        return RetryPolicy(max_retries=0)
    policy = getattr(conf, "task_publish_retry_policy", None)
    # `retry_errors` names exceptions of Celery's own connections.
    return None if policy is None else {name: value for name, value in policy.items() if name != "retry_errors"}
