"""The catalogue of faults.

Clocks are left alone: all processes of a machine share one, and to move it would need rights over that machine.
"""

from typing import Final

from tests.chaos import network_faults, point_faults, postgres_faults, process_faults, redis_faults
from tests.chaos.fault import Fault

CATALOGUE: Final[dict[str, Fault]] = {
    fault.name: fault
    for fault in (
        *process_faults.FAULTS,
        *redis_faults.FAULTS,
        *postgres_faults.FAULTS,
        *network_faults.FAULTS,
        *point_faults.FAULTS,
    )
}
