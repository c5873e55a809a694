"""Whose turn it is among the processes of a pool."""

import fcntl
import os
import tempfile


class Turn:
    """One batch at a time, among the processes of a pool. The kernel ends the turn of a process that dies (fcntl(2)).

    The file has to be opened before the pool forks: each worker has its own.
    """

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            self._file = os.dup(file.fileno())

    def wait(self) -> None:
        """Take the turn, once nobody else has it."""
        fcntl.lockf(self._file, fcntl.LOCK_EX)

    def end(self) -> None:
        """Give it up, or do nothing where this process has not got it."""
        fcntl.lockf(self._file, fcntl.LOCK_UN)


#: Of this worker's pool.
pool_turn = Turn()
