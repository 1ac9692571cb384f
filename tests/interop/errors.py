"""The exceptions that the workers' tasks raise; Celery's own client finds them here, since this module is imported."""


class AppError(Exception):
    pass


class CodeError(Exception):
    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(code, text)


class Outer:
    class InnerError(ValueError):
        pass


class KwOnlyError(Exception):
    """Celery cannot pickle it, so what its worker sends is a wrapper."""

    def __init__(self, *, detail: str) -> None:
        super().__init__(detail)
