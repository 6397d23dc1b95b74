"""The one exception that is addressed to the user."""


class UserError(Exception):
    """One line for the user: which file, which key, what was expected, where to get it.

    The command line prints it without a traceback and exits with code 2.
    """
