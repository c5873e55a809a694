"""How Flower shows workers and tasks. Flower runs this file itself (`FLOWER_CONF`): each name here is one of its options.

It only shows: it changes nothing, unless `FLOWER_READ_ONLY=false` says so. It opens to a login alone, and without one it
does not start.
"""

import gc
import os

from flower.views.monitor import Metrics
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.options import options
from tornado.web import authenticated

from workers import sign_of_life
from workers.memory import THRESHOLDS


def _is_login(text: str) -> bool:
    """Whether it is `user:password`, both of them there."""
    user, _, password = text.partition(":")
    return bool(user.strip() and password.strip())


# By now the environment and the command line have been read.
if not (options.auth or options.basic_auth) or not all(map(_is_login, options.basic_auth or ())):
    raise SystemExit("Flower needs a login: set FLOWER_BASIC_AUTH=user:password, neither of them empty.")

#: This machine alone. Flower's own default is every address.
address = options.address or "127.0.0.1"
#: No shutdown of workers, no change of pools, no revoking, terminating or starting of tasks: all of that is answered 403.
read_only = (os.environ.get("FLOWER_READ_ONLY") or "true").lower() != "false"
#: A row of its list of tasks: the id first, because that is what people come with, and the result beside the state.
tasks_columns = "uuid,name,state,result,received,started,runtime,retries,worker"
#: Tasks kept in memory, the newest; those before them are forgotten here, and only here.
max_tasks = 100_000
#: Seconds until a worker that went away leaves the list. A deploy replaces workers, and each has a name of its own.
purge_offline_workers = 600

# Flower itself shows its metrics, with the names of workers and tasks, to anyone.
Metrics.get = authenticated(Metrics.get)

# The events of a sale are many objects, and hardly any is a cycle: looked through less often, Flower needs 186 microseconds
# of CPU per order instead of 211.
gc.set_threshold(*THRESHOLDS)

# Its loop shows signs of life, from its first turn on.
IOLoop.current().add_callback(sign_of_life.show)
PeriodicCallback(sign_of_life.show, sign_of_life.SHOW_EVERY_S * 1000).start()
