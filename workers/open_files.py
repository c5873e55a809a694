"""How many files a process may have open; each connection is one."""

import resource


def allow_open_files(count: int) -> int:
    """Raise this process's limit to so many, or to what it may have at most; returns the limit.

    A server that has used up its files spins on accepting the next connection, and can reach no store either.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return soft
