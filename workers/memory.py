"""What Python's garbage collector has to look at, in processes that live long and make much."""

import gc

#: Objects made before the youngest are looked at, and how many of those looks before older ones are. CPython's own (700, 10,
#: 10) look through a batch of orders a dozen times while it is being worked on, though hardly anything here is a cycle.
THRESHOLDS = (50_000, 20, 50)


def keep_what_is_loaded() -> None:
    """Call once all is loaded: spare the collector what lives as long as the process, and make it look less often.

    In a process that forks later, its children also copy less (docs of `gc.freeze`).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
