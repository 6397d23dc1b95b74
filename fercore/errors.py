"""What is addressed to the user."""


class UserError(Exception):
    """One line for the user: which file, which key, what was expected, where to get it.

    The command line prints it without a traceback and exits with code 2.
    """


class RunFailed(Exception):
    """A training that came to nothing, in one line: no fault of the input's form, and other runs may end well.

    The command line prints it without a traceback and exits with code 1.
    """


def reason(error: BaseException) -> str:
    """The first line of what an exception says, or its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
