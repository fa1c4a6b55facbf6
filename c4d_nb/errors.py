"""The one exception that a user can cause."""


class InputError(ValueError):
    """Input that cannot be used. The message names the argument, what was expected and what came."""
