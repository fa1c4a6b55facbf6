"""The one exception that a user can cause."""


class InputError(ValueError):
    """Input that cannot be used. The message names the argument, what was expected and what came, in one line: what a
    library's error, quoted within, says in several is joined."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))
