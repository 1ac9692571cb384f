"""The broker behind a port: ``base`` is the contract, ``amqp`` RabbitMQ, ``memory`` a broker inside this process."""
