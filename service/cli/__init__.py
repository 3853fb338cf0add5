"""The ``selfgan`` command: one word for each of the project's commands, and lists of what they take."""
