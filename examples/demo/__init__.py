"""The main job: a worker process stores the results of its tasks, this process awaits them all.

Run it with ``make demo`` or ``python -m examples.demo [FOLDER]`` from the checkout.

| file          | is                                                                          |
|---------------|-----------------------------------------------------------------------------|
| `__main__.py` | the command: arguments, broker, exit status                                 |
| `files.py`    | which files, and what is counted in each                                    |
| `broker.py`   | `$AMQP_URL`, a private RabbitMQ node, or `memory://`                        |
| `tasks.py`    | the task messages and the queue that carries them, in plain aio-pika        |
| `worker.py`   | takes tasks, stores a progress report and the result of each                |
| `caller.py`   | sends the tasks, awaits the results under a progress bar, sums them up      |
"""
