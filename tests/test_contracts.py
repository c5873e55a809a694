"""What `workers.transport` and `workers.batching` take from kombu and Celery beyond their documentation.

A test that turns red here says: read the new version's sources before you trust these two modules with it.
"""

import inspect
from collections.abc import Callable
from typing import Any

import billiard.pool
import celery
import kombu
import pytest
import redis
from billiard.pool import ApplyResult
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool
from celery.events.dispatcher import EventDispatcher
from celery.worker import components, state
from celery.worker.consumer import Consumer
from celery.worker.request import Request, create_request_cls
from kombu.asynchronous.hub import Hub
from kombu.asynchronous.semaphore import LaxBoundedSemaphore
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from tests.errands import an_app
from tests.messages import FIRST, a_taker
from workers import batching, transport

OVERRIDDEN: list[tuple[Callable[..., Any], str]] = [
    (kombu_redis.Channel._brpop_start, "(self, timeout=None)"),
    (kombu_redis.Channel._brpop_read, "(self, **options)"),
    (kombu_redis.Channel._receive, "(self)"),
    (kombu_redis.Channel.conn_or_acquire, "(self, client=None)"),
    (kombu_redis.Channel._disconnect_pools, "(self)"),
    (kombu_redis.QoS.append, "(self, message, delivery_tag)"),
    (kombu_redis.QoS.ack, "(self, delivery_tag)"),
    (kombu_redis.QoS.restore_unacked, "(self, client=None)"),
    (kombu_redis.MultiChannelPoller.maybe_restore_messages, "(self)"),
    (kombu_redis.Transport.register_with_event_loop, "(self, connection, loop)"),
    (kombu_redis.Transport.close_connection, "(self, connection)"),
    (virtual.Message.__init__, "(self, payload, channel=None, **kwargs)"),
]
CALLED: list[tuple[Callable[..., Any], str]] = [
    (kombu_redis.Channel._flush_brpop_reauth, "self"),
    (kombu_redis.Channel._create_client, "self"),
    (virtual.QoS.append, "self message delivery_tag"),
    (virtual.QoS.ack, "self delivery_tag"),
    (virtual.QoS._flush, "self"),
    (virtual.QoS.can_consume_max_estimate, "self"),
    (virtual.Transport._deliver, "self message queue"),
    (Hub.call_soon, "self callback args"),
    (Hub.call_later, "self delay callback args"),
    (LaxBoundedSemaphore.acquire, "self callback partial_args"),
    (EventDispatcher.flush, "self"),
    (EventDispatcher.__init__, "buffer_limit on_send_buffered buffer_group groups"),
    (Consumer.__init__, "on_task_request controller pool hub"),
    (create_request_cls, "base task pool hostname eventer app"),
    (Request.__init__, "message on_ack on_reject app hostname eventer task body decoded headers"),
    (Request.acknowledge, "self"),
    (Request.revoked, "self"),
    (state.task_reserved, "request"),
    (state.task_accepted, "request"),
    (state.task_ready, "request"),
    (
        billiard.pool.Pool.apply_async,
        "func args callback error_callback accept_callback soft_timeout timeout correlation_id",
    ),
]


def name(of: Any) -> str:
    """Of a function, for a test's id."""
    return getattr(of, "__qualname__", "")


@pytest.mark.parametrize(("function", "signature"), OVERRIDDEN, ids=name)
def test_kombu_still_calls_what_the_transport_overrides_as_it_expects(
    function: Callable[..., Any], signature: str
) -> None:
    assert str(inspect.signature(function)) == signature


@pytest.mark.parametrize(("function", "parameters"), CALLED, ids=name)
def test_kombu_and_celery_still_take_what_they_are_given(
    function: Callable[..., Any], parameters: str
) -> None:
    assert set(parameters.split()) <= set(inspect.signature(function).parameters)


def test_kombu_and_celery_are_the_versions_that_were_read() -> None:
    assert (kombu.__version__[:4], celery.__version__[:4]) == ("5.7.", "5.7.")


def test_a_channel_still_has_the_parts_that_the_transport_uses(client: "redis.Redis") -> None:
    with a_taker(FIRST) as taker:
        channel = taker.channel
        parts = [
            "_in_poll",
            "_brpop_sent_at",
            "_closing",
            "brpop_timeout",
            "connection_errors",
            "active_queues",
        ]

        assert type(channel) is transport.Channel
        assert [part for part in parts if not hasattr(channel, part)] == []
        assert channel.handlers == {"BRPOP": channel._brpop_read, "LISTEN": channel._receive}
        assert (channel.qos._delivered, channel.qos._dirty) == ({}, set())


def test_a_worker_still_has_the_parts_that_batches_use() -> None:
    dispatcher = EventDispatcher(app=an_app(), enabled=False, buffer_group=["task"])

    assert dispatcher._group_buffer["task"] == []
    assert (dispatcher.groups, dispatcher.enabled) == (set(), False)
    assert "w._quick_acquire = w.semaphore.acquire" in inspect.getsource(components.Pool.create)
    assert TaskPool.uses_semaphore
    assert inspect.isfunction(ApplyResult.discard)
    assert ApplyResult._write_to is None
    assert ApplyResult.__weakrefoffset__ > 0
    assert "job.discard()" in inspect.getsource(AsynPool.flush)
    assert (state.revoked.__contains__("nothing"), state.should_stop) == (False, None)


def test_the_product_s_workers_use_both_modules() -> None:
    from tasks.orders import fulfil_order
    from workers.app import app

    assert type(app.connection_for_read().transport) is transport.Transport
    assert fulfil_order.Strategy == "workers.batching:strategy"
    assert fulfil_order.soft_time_limit is None or fulfil_order.soft_time_limit > batching.BATCH_SOFT_LIMIT_S
    assert app.conf.broker_transport_options["visibility_timeout"] > batching.BATCH_HARD_LIMIT_S
