"""Messages as Celery puts them on Redis, and a consumer of them without a worker around it."""

import base64
import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import redis
from kombu import Connection, Consumer, Queue

from tests.errands import OPTIONS, OURS

FIRST, SECOND = "errands", "chores"


@dataclass
class Taker:
    """A consumer without a worker around it, and what it got."""

    connection: Any
    channel: Any
    consumer: Any
    messages: list[Any] = field(default_factory=list)

    def take(self) -> int:
        """Read what is there; how many messages came."""
        before = len(self.messages)
        with suppress(socket.timeout):
            self.connection.drain_events(timeout=0.5)
        return len(self.messages) - before

    def take_all(self) -> list[Any]:
        """Read until nothing comes any more."""
        while self.take():
            pass
        return self.messages


@contextmanager
def a_taker(*queues: str, by: str = OURS, prefetch: int = 0, **options: Any) -> Iterator[Taker]:
    """A consumer of these queues."""
    url = os.environ["CELERY_BROKER_URL"]
    with Connection(
        url, transport=by, transport_options={**OPTIONS, "polling_interval": 0.05, **options}
    ) as connection:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=prefetch)
        taker = Taker(connection, channel, None)
        bound = [Queue(name, no_declare=True) for name in queues]
        with Consumer(channel, bound, on_message=taker.messages.append) as taker.consumer:
            yield taker


def a_message(*, headers: Any = None, body: Any = None, **properties: Any) -> dict[str, Any]:
    """A message as Celery puts it on a queue."""
    tag = str(uuid.uuid4())
    return {
        "body": body or base64.b64encode(b'[["an errand"], {}, {}]').decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "errand", "id": tag, "root_id": tag, **(headers or {})},
        "properties": {
            "correlation_id": tag,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": FIRST},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": tag,
            **properties,
        },
    }


def put(client: "redis.Redis", *messages: Any, queue: str = FIRST) -> list[str]:
    """Put messages on a queue, the first one first in line; their texts."""
    texts = [message if isinstance(message, str) else json.dumps(message) for message in messages]
    client.lpush(queue, *texts)
    return texts


def put_many(client: "redis.Redis", count: int, queue: str = FIRST) -> list[str]:
    """Put messages on a queue."""
    return put(client, *[a_message() for _ in range(count)], queue=queue)


def ids_of(messages: list[Any]) -> list[str]:
    """The ids of messages that were taken."""
    return [message.headers["id"] for message in messages]


#: What no consumer of errands can read, each in its own way.
BROKEN: dict[str, Any] = {
    "no JSON": '{"delivery_tag": "a tag", ',
    "JSON without a tag": '{"no": "message"}',
    "a list": '[{"delivery_tag": "another tag"}]',
    "a body that is no base64": a_message(body="%%%"),
    "a body that is no text": a_message(body=5),
    "no arguments": a_message(body=base64.b64encode(b"null").decode()),
    "too few arguments": a_message(body=base64.b64encode(b"[[], {}]").decode()),
    "an id that is no text": a_message(headers={"id": ["an id"]}),
    "a task that is no text": a_message(headers={"task": ["errand"]}),
    "no delivery information": a_message(delivery_info="none"),
    "no id": {**a_message(), "headers": {"task": "errand"}},
}
#: What Celery logs and drops by itself.
REFUSED = [
    a_message(body=base64.b64encode(b'[["\xff"], {}, {}]').decode()),
    a_message(body=base64.b64encode(b"[[").decode()),
    a_message(headers={"task": "of another release"}),
    {**a_message(), "headers": {}},
]
