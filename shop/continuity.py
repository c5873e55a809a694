"""Whether PostgreSQL is still the one that Redis follows, or went back: what is done then, and by whom.

A failover to a replica that lagged, a base backup, a copy of the data folder and a `pg_restore` all leave a PostgreSQL that
has forgotten what Redis was told. Each sweep counts on in PostgreSQL (`shop_history`), and Redis notes which server that was
and how far it had counted. Another server, another timeline, or a count that Redis has seen before, is no continuation.

From then on PostgreSQL decides nothing: workers tell it which one they follow (`shop_decide`), and its refusal is to them as
a store that is unavailable. One process lets both stores tell one story again (`shop.recovery`); then Redis follows the new
one. What the old one had decided and nobody had published is refused by `settle.lua`, because the epoch is another one.
"""

import structlog

from shop import keys, queue, recovery, scripts
from shop.stores import TextRedis, rows, store_faults

log = structlog.get_logger()

FOLLOW_TASK = "tasks.maintenance.follow"
#: After so long another process takes over from one that died over a recovery; two at once do no harm.
RECOVERY_S = 120


def mind(client: TextRedis) -> None:
    """Look whether PostgreSQL went back; then have one process see to it. Raises `StoreUnavailable`."""
    if continues(client):
        return
    with store_faults():
        is_ours = client.set(keys.RECOVERING, "", nx=True, ex=RECOVERY_S)
    if is_ours:
        log.error("PostgreSQL went back: nothing is decided until its orders are what clients were told")
        queue.publish(FOLLOW_TASK, queue.new_task_id())


def continues(client: TextRedis) -> bool:
    """Whether PostgreSQL goes on where Redis saw it last. Raises `StoreUnavailable`."""
    # Of two sweeps at once the one that counted first may come second: it counts again.
    return _follow(client) or _follow(client)


def _follow(client: TextRedis, *, whatever_was: bool = False) -> bool:
    with store_faults():
        ((lineage, ticks),) = rows("tick")
        args = [lineage, ticks, "anew" if whatever_was else ""]
        return bool(scripts.run(client, "follow", [keys.FOLLOWED], args) == "continues")


def follow_anew(client: TextRedis) -> recovery.Recovery:
    """Let both stores tell one story again, and follow this PostgreSQL from now on.

    Raises `StoreUnavailable`. Safe to repeat, at any time.
    """
    done = recovery.recover(client)
    _follow(client, whatever_was=True)
    with store_faults():
        client.delete(keys.RECOVERING)
    log.warning(
        "PostgreSQL is followed again", done=done.summary(), differences=list(map(str, done.differences))
    )
    return done
