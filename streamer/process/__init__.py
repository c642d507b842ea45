"""What a long-lived process needs of its host.

slot      a stable name of this replica, held by a file lock
watchdog  ends a process whose loop does not turn
garbage   when Python's collector runs, and how much memory the C library keeps
"""

__all__ = ["garbage", "slot", "watchdog"]
