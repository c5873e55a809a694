"""Scripts that Redis forgets: it is told them again, and who told it in vain comes again."""

import redis

from shop.domain import Status
from shop.fulfilment import fulfil
from shop.stores import StoreUnavailable
from tests.builders import a_sku, accepted, an_order, assert_at_rest
from tests.puppets import Puppet


def forgetting_its_scripts_before_each_call(client: "redis.Redis", puppet: Puppet) -> None:
    """Work to the end, with SCRIPT FLUSH before each call."""
    while puppet.is_busy:
        client.script_flush()
        puppet.step()


def test_redis_that_forgets_its_scripts_between_any_two_calls_is_a_store_that_is_away(
    client: "redis.Redis",
) -> None:
    (order,) = accepted(client, an_order((a_sku(stock=10), 8)))
    puppet = Puppet("worker")
    try:
        puppet.begin(lambda client: fulfil([order], client=client))
        forgetting_its_scripts_before_each_call(client, puppet)
    finally:
        puppet.close()

    assert isinstance(puppet.outcome, StoreUnavailable)
    assert fulfil([order], client=client) == {order.id: Status.CONFIRMED}
    assert_at_rest(client)
