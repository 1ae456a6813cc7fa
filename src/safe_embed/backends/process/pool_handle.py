"""What stands for processes and queues in the record of a pool of upstream's."""

from __future__ import annotations

from collections.abc import Callable


class PoolHandle:
    """Stands for a process and for the queues in the record of a pool.

    Libraries pass the record to upstream's ``stop_multi_process_pool``, which terminates, joins and
    closes what it finds there.

    Args:
        close: Ends the pool; all of it ends with any of its handles.
        pid: Of the process; ``None`` for a queue.
    """

    def __init__(self, close: Callable[[], None], pid: int | None = None) -> None:
        self.pid = pid
        self._close = close

    def close(self) -> None:
        """End the pool; may be called again."""
        self._close()

    terminate = join = cancel_join_thread = close
