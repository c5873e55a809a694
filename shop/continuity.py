"""Whether PostgreSQL is still the one that Redis follows, or went back: what is done then, and by whom.

A failover to a replica that lagged, a base backup, a copy of the data folder and a `pg_restore` all leave a PostgreSQL that
has forgotten what Redis was told. Each sweep counts on in PostgreSQL (`shop_history`), and Redis notes which server that was
and how far it had counted. Another server, another timeline, a branch whose place was taken, or a count below what Redis has
seen, is no continuation, and does not count on.

From then on PostgreSQL decides nothing: each order and each stock movement tells it which one Redis follows
(`shop_continues`), and its refusal is as good as a store that is unavailable. One process lets both stores tell one story
again (`shop.recovery`); then Redis follows the new one, on a branch of its own. What the old one had decided and nobody had
published is refused by `settle.lua`, because the epoch is another one.
"""

import uuid
from contextlib import suppress

import structlog

from shop import keys, queue, recovery, scripts
from shop.stores import StoreUnavailable, TextRedis, rows, store_faults

log = structlog.get_logger()

FOLLOW_TASK = "tasks.maintenance.follow"
#: Seconds after its last step until another process takes over from one that died over a recovery; two at once do no harm.
RECOVERY_S = 30


def mind(client: TextRedis) -> None:
    """Look whether PostgreSQL went back; then have one process see to it. Raises `StoreUnavailable`."""
    if continues(client):
        return
    with store_faults():
        is_ours = client.set(keys.RECOVERING, "", nx=True, ex=RECOVERY_S)
    if is_ours:
        log.error("PostgreSQL went back: nothing is decided until its orders are what clients were told")
        try:
            queue.publish(FOLLOW_TASK, queue.new_task_id())
        except StoreUnavailable:
            _ended(client)
            raise


def continues(client: TextRedis) -> bool:
    """Whether PostgreSQL goes on where Redis saw it last. Raises `StoreUnavailable`."""
    with store_faults():
        followed = client.mget(keys.FOLLOWED)[0] or ""
        counted = rows("tick", followed=followed, branch="")
        for (now,) in counted:
            scripts.run(client, "follow", [keys.FOLLOWED], [followed, now])
    return bool(counted)


def follow_anew(client: TextRedis) -> recovery.Recovery:
    """Let both stores tell one story again, and follow this PostgreSQL from now on.

    Raises `StoreUnavailable`. Safe to repeat, at any time.
    """
    try:
        done = recovery.recover(client, lambda: _goes_on(client))
        with store_faults():
            ((now,),) = rows("tick", followed="", branch=uuid.uuid4().hex)
            client.set(keys.FOLLOWED, now)
    finally:
        _ended(client)
    log.warning(
        "PostgreSQL is followed again", done=done.summary(), differences=list(map(str, done.differences))
    )
    return done


def _goes_on(client: TextRedis) -> None:
    with store_faults():
        client.set(keys.RECOVERING, "", ex=RECOVERY_S)


def _ended(client: TextRedis) -> None:
    """The next sweep sees whether there is more to do."""
    with suppress(StoreUnavailable), store_faults():
        client.delete(keys.RECOVERING)
