"""The one exception the launcher turns into a line on stderr."""


class StackError(Exception):
    """Something a person can correct; the message is one line that says what and how. Exit code 1."""


class UsageError(StackError):
    """A wrong argument or variable. Exit code 2."""
