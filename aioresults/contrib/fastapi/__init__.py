"""Results in a FastAPI service (``aioresults[fastapi]``).

::

    app = FastAPI(lifespan=lifespan(lambda: AMQPBackend(URL, routing=ReplyQueue())))
    app.include_router(router)  # GET /tasks/{id}, and /tasks/{id}/events as server-sent events and as a WebSocket
    app.include_router(health_router)  # GET /health


    @app.post("/answers")
    async def answer(question: str, request: Request, results: Results) -> Any:
        task_id = await send(question, reply_to=results.reply_to)  # by aio-pika, Celery, taskiq, ...
        return await wait_or_202(results, task_id, request, timeout=2)

One backend is opened when the application starts and closed when it ends. `Results` gives it to path functions and
WebSockets, and makes HTTP errors of what they raise (`errors`). In tests, override `get_backend`.
"""

from aioresults.contrib.fastapi.dependencies import Results, Settings, get_backend, lifespan
from aioresults.contrib.fastapi.errors import ERRORS
from aioresults.contrib.fastapi.models import Accepted, ErrorResponse, Health, Problem, TaskStatus
from aioresults.contrib.fastapi.router import health_router, router
from aioresults.contrib.fastapi.waiting import ACCEPTED, status_url, wait_or_202

__all__ = [
    "ACCEPTED",
    "ERRORS",
    "Accepted",
    "ErrorResponse",
    "Health",
    "Problem",
    "Results",
    "Settings",
    "TaskStatus",
    "get_backend",
    "health_router",
    "lifespan",
    "router",
    "status_url",
    "wait_or_202",
]
