"""How people reach the project: the ``selfgan`` command, its lists and help, and the functions for Python."""
