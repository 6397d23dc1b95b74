"""What is addressed to the user."""

import sys

from tqdm.auto import tqdm


class UserError(Exception):
    """One line for the user: which file, which key, what was expected, where to get it.

    The command line prints it without a traceback and exits with code 2.
    """


def say(line: str) -> None:
    """A line for the user that is no error, on standard error, clear of any progress bar."""
    tqdm.write(line, file=sys.stderr)


def reason(error: BaseException) -> str:
    """The first line of what an exception says, or its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
