"""Celery's Redis transport, many messages at a time: fetched and recorded in one step, acknowledged together.

It is kombu's own transport with the same keys and formats, so workers with and without it share queues. What differs:

- kombu pops a message and then records it as unacknowledged; a worker that dies in between loses it. Here one script
  does both, for as many messages as the prefetch limit allows.
- kombu acknowledges message by message, two commands each, and waits for their replies. Here they travel with the next
  fetch; when nothing is being fetched, those of one turn of the event loop go together.
- kombu makes a client for each operation. Here a channel has one.
- With kombu all workers reach for what comes. Here they leave it to one of them while that one keeps up, because one batch
  costs less than several parts of it, and does not meet the locks of the others.
- With kombu a worker works on what it has taken. Here one that has a queue for itself begins with a lone message when it
  sees it, and takes it from the queue a moment later: a write to Redis less that somebody waits for.
- With kombu a message comes again when its worker has had it for longer than the visibility timeout: also one that waits
  there behind others which take their time, again and again. Here a worker says what it has in hand, and a message comes
  again when its worker has been silent for so long.
- With kombu a message that must wait for something stays in a worker's hands, or goes to the end of its queue. Here it is
  parked, in nobody's hands, until somebody looks whether its waiting is over.

Written against kombu 5.7; `tests/test_contracts.py` fails when the parts of kombu that it relies on change.
"""

import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib.resources import files
from queue import Empty
from time import monotonic, sleep, time
from typing import Any, NamedTuple
from uuid import uuid4

import celery.app.amqp
import kombu
import msgspec
import redis
from celery.utils.log import get_logger
from kombu.asynchronous import get_event_loop, set_event_loop
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.json import loads
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.retry import Retry

from workers import sign_of_life

log = get_logger(__name__)

#: Messages of one fetch, at most.
FETCH_MAX = 256
#: Of each queue but the first, in one fetch: they are not starved, and do not push the first aside.
OTHERS_SHARE = 8
#: Under load, fetches are so far apart: fuller ones cost less per message. The first after a silence goes at once.
PACE_S = 0.004
#: Others leave a queue to a worker that keeps up with it, for so long after each fetch that showed it: some batches.
LEFT_TO_ONE_MS = 150
#: They look again so often whether they are needed.
LOOK_AGAIN_S = 0.02
#: An acknowledgement waits so long for a fetch that takes it along, at most.
ACKNOWLEDGE_WITHIN_S = 0.02
#: A worker says what it has in hand so often, in visibility timeouts: it may be kept from it once, by a Redis that is away.
KEPT_WITHIN = 1 / 3
#: A worker leaves a Redis alone for so long that refuses it at its start, or in which somebody has broken a queue's key.
REST_S = 1.0
#: A worker hears from Redis at least once a second while it waits for messages. Silent for longer, it takes none.
ANSWERED_WITHIN_S = 4.0
#: Parked messages by delivery tag; what they wait for, by when to look; before such a name: who waits for it.
PARKED, PARKED_INDEX, PARKED_FOR = "parked", "parked_index", "parked:"
#: Seconds between looks for parked messages, while there are some, and while there are none.
UNPARK_EVERY_S, UNPARK_SELDOM_S = 0.02, 1.0
#: Milliseconds for which a message waits at first, and at most, before a look whether its waiting is over.
SHORTEST_LOOK_MS, LONGEST_LOOK_MS = 20, 500
#: So many things are looked at in one go.
LOOKS = 64
#: And where nobody tells that the waiting is over: until the first look.
FIRST_LOOK_MS = 100
#: How long a message is parked that waits for nothing else than a while, in milliseconds.
A_WHILE_MS = 1_000
#: Messages that no consumer can read are kept here, the newest thousand, for people to look at.
UNREADABLE = "unreadable"
#: Before a queue's name: the key that tells which worker it is left to.
LEFT_TO = "left_to:"

#: The last one of a message: kombu writes properties after headers, which hold what a caller likes.
_TAG = re.compile(rb'.*"delivery_tag":\s*"([^"]+)"', re.DOTALL)


@cache
def _script(name: str) -> Script:
    return Script(redis.Redis(), (files("workers") / "lua" / f"{name}.lua").read_text())


class Park(NamedTuple):
    """What a message waits for.

    `awaited`: a name that those which wait for the same thing share. `since_ms`: Unix time; who has waited longest goes
    first. `wait_ms`: until the first look whether the waiting is over; 0 where it is over as soon as there is no key of
    that name in this Redis.
    """

    awaited: str
    since_ms: int
    wait_ms: int

    @classmethod
    def a_while(cls, delivery_tag: str) -> "Park":
        """For nothing but time."""
        return cls(delivery_tag, int(time() * 1000), round(random.uniform(0.5, 1) * A_WHILE_MS))

    @classmethod
    def until_over(cls, awaited: str, since_ms: int) -> "Park":
        """Until one of those that wait for it finds that it is over.

        What waits for a task, by its name, waits for a message of it that gets through: at present none does.
        """
        waited_ms = time() * 1000 - since_ms
        return cls(awaited, since_ms, round(max(FIRST_LOOK_MS, min(waited_ms / 10, LONGEST_LOOK_MS))))


class Unreadable(Exception):
    """What was on a queue is no message."""


class Message(virtual.Message):
    """A message, or `Unreadable`: from kombu, a missing part is a `KeyError`, which Celery takes for a lost connection."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        try:
            super().__init__(payload, channel=channel, **kwargs)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise Unreadable(repr(error)) from error


class QoS(kombu_redis.QoS):
    """What is fetched and not acknowledged, with acknowledgements sent together."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._acknowledged: list[str] = []

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a delivered message; `fetch.lua` has recorded those it took."""
        if self.channel.is_fetching:
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge with the next fetch, or at the end of this turn of the loop; without a loop, now.

        On a channel that was lost it is not possible: the message comes again, and its work is found done.
        """
        virtual.QoS.ack(self, delivery_tag)
        if self.channel.is_lost:
            return
        self._acknowledged.append(delivery_tag)
        hub = get_event_loop()
        if hub is None or self.channel.closed:
            self.flush()
        elif len(self._acknowledged) == 1:
            if self.channel.is_awake:
                hub.call_later(ACKNOWLEDGE_WITHIN_S, self.flush)
            else:
                hub.call_soon(self.flush)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Return the message to its queue, or drop it. On a channel that was lost it comes again by itself."""
        if self.channel.is_lost:
            virtual.QoS.ack(self, delivery_tag)
        elif not self.channel.does_once_taken(
            delivery_tag, partial(self.reject, delivery_tag, requeue=requeue)
        ):
            try:
                super().reject(delivery_tag, requeue=requeue)
            except redis.ResponseError:
                virtual.QoS.ack(self, delivery_tag)  # nobody has it in hand: it comes again
                raise

    def take_acknowledged(self) -> list[str]:
        """The acknowledgements that wait, to be sent now. One that can't be sent costs a redelivery, not a message."""
        tags, self._acknowledged = self._acknowledged, []
        return tags

    def has_nothing_in_hand(self) -> bool:
        """Whether all that was delivered is acknowledged."""
        return len(self._delivered) == len(self._dirty)

    def is_acknowledged(self, delivery_tag: str) -> bool:
        """Whether that acknowledgement waits to be sent."""
        return delivery_tag in self._acknowledged

    def flush(self) -> None:
        """Send the acknowledgements that wait, but for that of a message which the next fetch takes."""
        tags = self.take_acknowledged()
        if self.channel.shown_tag in tags:
            tags.remove(self.channel.shown_tag)
            self._acknowledged.append(self.channel.shown_tag)
            if (hub := get_event_loop()) and not self.channel.closed:
                # The fetch that is under way may be too early for it, and the last for long.
                hub.call_later(ACKNOWLEDGE_WITHIN_S, self.flush)
        if not tags or self.channel.is_lost:
            return
        try:
            with self.channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
                pipe.zrem(self.unacked_index_key, *tags).hdel(self.unacked_key, *tags).hdel(PARKED, *tags)
                pipe.execute()
        except redis.ResponseError as refusal:
            hub = get_event_loop()
            if hub is None or not _is_of_a_broken_key(refusal):
                raise
            # One of the two may be done: without the other, the record would stay for ever.
            self._acknowledged[:0] = tags
            hub.call_later(REST_S, self.flush)

    def put_back(self, delivery_tags: Sequence[str]) -> None:
        """At the end: return messages to the heads of their queues, as if they had never been fetched."""
        for tag in delivery_tags:
            virtual.QoS.ack(self, tag)
        if self.channel.is_lost:
            return
        with self.channel.conn_or_acquire() as client:
            _script("put_back")([self.unacked_key, self.unacked_index_key], delivery_tags, client=client)

    def park(self, parked: Mapping[str, Park]) -> None:
        """Let messages wait in nobody's hands, each for something: by delivery tag."""
        parked = {
            tag: park
            for tag, park in parked.items()
            if not self.channel.does_once_taken(tag, partial(self.park, {tag: park}))
        }
        for tag in parked:
            virtual.QoS.ack(self, tag)
        if self.channel.is_lost or not parked:
            return
        keys = [self.unacked_key, self.unacked_index_key, PARKED, PARKED_INDEX]
        args: list[Any] = [int(time() * 1000)]
        for tag, park in parked.items():
            args += [tag, *park]
        with self.channel.conn_or_acquire() as client:
            _script("park")(keys, args, client=client)
        self.channel.connection.cycle.look_soon()

    def keep(self) -> None:
        """Say what is in hand: it counts as fetched now. What has been restored, to be done by another one, stays his."""
        now = time()
        if in_hand := {tag: now for tag in self._delivered if tag not in self._dirty}:
            with self.channel.conn_or_acquire() as client:
                client.zadd(self.unacked_index_key, in_hand, xx=True)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """At shutdown: say what was done, also where nothing is left to return; kombu would see to what is left alone."""
        with self._as_far_as_possible():
            self.channel.take_shown()
            self.flush()
        super().restore_unacked_once(stderr)

    def restore_unacked(self, client: Any = None) -> None:
        """At shutdown: return what was fetched and not worked on."""
        with self._as_far_as_possible():
            self._flush()
            if self._delivered:
                self.put_back(list(self._delivered))
        self._delivered.clear()

    @contextmanager
    def _as_far_as_possible(self) -> Iterator[None]:
        """A channel that was lost can return nothing, nor can one of a Redis that is full; their messages come again."""
        try:
            yield
        except redis.RedisError as error:
            log.warning("messages were not returned, and come again after a while: %s", error)


class SignOfLife(NoBackoff):
    """Before each command and each new attempt, a sign of life.

    While Redis is frozen, one command after the other waits for its time limit in one turn of a loop: that shows no sign.
    """

    def reset(self) -> None:
        """A command begins."""
        sign_of_life.show()

    def compute(self, failures: int) -> float:
        """Try again at once."""
        sign_of_life.show()
        return super().compute(failures)


class Channel(kombu_redis.Channel):
    """A channel whose consumer fetches in bulk.

    It waits at its first queue with `BLMOVE q q RIGHT RIGHT`, which moves the last element to where it is: a blocking
    look that takes nothing. `fetch.lua` then takes from all queues; the others wait for that, `brpop_timeout` at most.
    The first queue is left to another worker which keeps up with it: nothing is in its hands, or it has ended something
    since its last fetch.

    A worker to which the queue is left begins with the message that a look shows it. Until its next fetch this message lies
    on the queue, where nothing can happen to it; a worker that comes across it nevertheless does it a second time.
    """

    QoS = QoS
    Message = Message
    #: Every priority in one list: a fetch looks at one list per queue.
    priority_steps = [0]  # noqa: RUF012 - as kombu declares it

    is_fetching = False
    #: Whether the last fetch found something, so that the next one comes soon. A new channel begins with a fetch: its answer
    #: comes at once, and shows that the channel may run scripts.
    is_awake = True
    #: The tag of a message that was delivered and is still on its queue, where there is one, and that message.
    shown_tag = ""
    _shown: bytes | None = None
    _shared: Any = None
    _asked: Sequence[str] = ()
    _asked_at = _left_to_us_until = 0.0
    _carried: Sequence[str] = ()
    _next_fetch_at = 0.0
    _resting_until = 0.0
    _wake_up: Any = None
    _answered_at = -float("inf")
    _is_subscribed = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._name = uuid4().hex
        self._once_taken: list[Callable[[], object]] = []
        super().__init__(*args, **kwargs)

    @property
    def is_lost(self) -> bool:
        """Whether its connection is gone.

        Acknowledgements outlive it: those that the event loop had not come to when Redis went away are there in its next
        turn, with a new connection. kombu clears the old one's attributes, and what that raised ended the worker.
        """
        return self.connection is None or self.connection.client is None

    def takes_messages(self) -> bool:
        """Whether what it asked of Redis is granted: it is subscribed, and fetches are answered or its hands are full."""
        if self.active_fanout_queues and not self._is_subscribed:
            return False
        if not self.active_queues:
            return True
        silent_s = monotonic() - self._answered_at
        has_full_hands = not self.qos.can_consume()
        return silent_s < ANSWERED_WITHIN_S or (has_full_hands and silent_s < float("inf"))

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """The channel's one client."""
        if client is None:
            if self._shared is None:
                self._shared = self._create_client()
            client = self._shared
        yield client

    def _connparams(self, asynchronous: bool = False) -> Any:
        return {**super()._connparams(asynchronous), "retry": Retry(SignOfLife(), 1)}

    def _disconnect_pools(self) -> None:
        self._shared = None
        super()._disconnect_pools()

    def park(self, parked: Mapping[str, Park]) -> None:
        """Let fetched messages wait in nobody's hands."""
        self.qos.park(parked)

    def unpark(self, over: Collection[str]) -> bool:
        """Put parked messages at the heads of their queues whose waiting may be, or is `over`; whether any are parked."""
        now_ms, lot = int(time() * 1000), random.random()
        args: list[Any] = [now_ms, FETCH_MAX, LOOKS, SHORTEST_LOOK_MS, LONGEST_LOOK_MS, lot, *over]
        with self.conn_or_acquire() as client:
            return bool(_script("unpark")([PARKED, PARKED_INDEX], args, client=client))

    def does_once_taken(self, delivery_tag: str, what: Callable[[], object]) -> bool:
        """Whether a message is still on its queue; `what` is then done as soon as it has been taken."""
        is_on_queue = delivery_tag == self.shown_tag
        if is_on_queue:
            self._once_taken.append(what)
        return is_on_queue

    def take_shown(self) -> None:
        """At shutdown: take a message that was done from its queue. One that was not done stays there."""
        if self.shown_tag and self.qos.is_acknowledged(self.shown_tag) and not self.is_lost:
            with self.conn_or_acquire() as client:
                client.lrem(self._asked[-1], -1, self._shown)
        self._is_taken()

    def _is_taken(self) -> None:
        """No message that was delivered is on its queue any more: do what waits for that."""
        self.shown_tag, self._shown = "", None
        once_taken, self._once_taken = self._once_taken, []
        for what in once_taken:
            try:
                what()
            except redis.ResponseError as refusal:
                # What came with it is to be delivered all the same.
                log.warning("a message was not returned, and comes again after a while: %s", refusal)

    def close(self) -> None:
        """Close it and all its sockets, whatever Redis says to what is to be done last.

        kombu leaves it half closed then: its sockets stay open, and it is kept for ever. A worker of a Redis that was full
        opened a dozen each second, until it had no file or Redis no connection left.
        """
        try:
            super().close()
        except (OSError, redis.RedisError) as error:
            log.info("a channel was closed without a farewell: %s", error)
            self.connection.cycle.discard(self)
            self._close_clients()
            virtual.Channel.close(self)
        finally:
            # Closing may have opened one more, to return messages.
            self._disconnect_pools()

    def _receive(self) -> bool:
        """Read from the pub/sub socket, and never wait for it.

        When Redis comes back, the loop may still hold an event of a socket that is gone, under a number that the new one
        got. kombu would then read, without a time limit, what nobody has sent.
        """
        connection = self.subclient.connection
        if connection is not None and not connection.can_read(timeout=0):
            return False
        return bool(super()._receive())

    def _handle_message(self, client: Any, response: Any) -> Any:
        self._is_subscribed = self._is_subscribed or response[0] in (b"psubscribe", "psubscribe")
        return super()._handle_message(client, response)

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Send the next command: a fetch when the last one found something, else a blocking look."""
        queues = self.active_queues
        if not queues or self._must_pause():
            return
        connection = self.client.connection
        self._in_poll, self._brpop_sent_at = connection, monotonic()
        if self.is_awake:
            self._carried = self.qos.take_acknowledged()
            self._ask(connection)
        else:
            self._carried, self._asked = (), queues[:1]
            wait_s = self.brpop_timeout if timeout is None else timeout
            connection.send_command("BLMOVE", queues[0], queues[0], "RIGHT", "RIGHT", wait_s or 0)

    def _must_pause(self) -> bool:
        left_s = max(self._resting_until, self._next_fetch_at if self.is_awake else 0.0) - monotonic()
        hub = get_event_loop()
        if left_s <= 0 or hub is None:
            return False
        if self._wake_up is None:
            self._wake_up = hub.call_later(left_s, self._end_pause)
        return True

    def _end_pause(self) -> None:
        # The loop's next turn begins with `_brpop_start`.
        self._wake_up = None

    def _ask(self, connection: Any) -> None:
        # Its answer is for these queues, whatever is given up or taken up meanwhile.
        first, *others = self.active_queues
        self._asked, self._asked_at = [*others, first], monotonic()
        limit = self.qos.can_consume_max_estimate()
        keeps_up = bool(self._carried) or self.qos.has_nothing_in_hand()
        script = _script("fetch")
        keys = [self.unacked_key, self.unacked_index_key, UNREADABLE, LEFT_TO + first, *self._asked]
        args = [
            time(),
            FETCH_MAX if limit is None else min(limit, FETCH_MAX),
            OTHERS_SHARE,
            self._name,
            LEFT_TO_ONE_MS if keeps_up else 0,
            FETCH_MAX,
            self.shown_tag if self.shown_tag in self._carried else "",
            *self._carried,
        ]
        connection.send_command("EVALSHA", script.sha, len(keys), *keys, *args)

    def _brpop_read(self, **options: Any) -> bool:
        """Read the answer to the last command, fetch if it was a look, and deliver what came."""
        connection = self.client.connection
        try:
            try:
                reply = self._answer(connection)
            except self.connection_errors:
                connection.disconnect()
                raise
            except redis.ResponseError as refusal:
                self._rest(refusal)
                raise Empty from refusal
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        self._answered_at = monotonic()
        if isinstance(reply, bytes):
            return self._begin_with(reply)
        *fetched, left_to_us_ms = reply
        if self._closing:
            self._return_undelivered(fetched)
            raise Empty
        return self._deliver_all(fetched, left_to_us_ms)

    def _rest(self, refusal: redis.ResponseError) -> None:
        """Look again in a while, where a key is broken or Redis is full: another connection would get the same answer.

        A full Redis refuses the command that waits for a message. It refuses no fetch, so that one is next.
        """
        is_full = _is_full(refusal)
        if get_event_loop() is None or not (is_full or _is_of_a_broken_key(refusal)):
            raise refusal
        queues = self.active_queues
        left_to = [LEFT_TO + first for first in queues[:1]]  # none where all were given up meanwhile
        looked_at = ", ".join([*queues, self.unacked_key, self.unacked_index_key, *left_to])
        if is_full:
            log.warning("Redis is full, messages are fetched once a second: %r", refusal)
        else:
            log.error("no messages are fetched: somebody has broken a key, one of %s: %s", looked_at, refusal)
        self.is_awake = is_full
        self._resting_until = monotonic() + REST_S
        for tag in self._carried:
            self.qos.ack(tag)
        self._carried = ()

    def _answer(self, connection: Any) -> Any:
        """What the last command brought. After a look: the message it showed if that is ours, or what a fetch brings."""
        try:
            reply = connection.read_response()
            if self.is_awake:
                return reply
            if self._closing or not self.active_queues:
                raise Empty
            if reply and self._may_begin_with(reply):
                return reply
            self._ask(connection)
            return connection.read_response()
        except redis.exceptions.NoScriptError:
            connection.send_command("SCRIPT", "LOAD", _script("fetch").script)
            connection.read_response()
            self._ask(connection)
            return connection.read_response()

    def _may_begin_with(self, message: bytes) -> bool:
        # It needs a place beside it: without one, nothing is fetched until it is done, and others wait for us 0.15 s.
        limit = self.qos.can_consume_max_estimate()
        is_left_to_us = monotonic() < self._left_to_us_until
        return is_left_to_us and (limit is None or limit > 1) and not self.shown_tag and bool(_tag(message))

    def _begin_with(self, message: bytes) -> bool:
        self.is_awake = True
        self._next_fetch_at = monotonic() + PACE_S
        self._shown, self.shown_tag = message, _tag(message)
        self.is_fetching = True
        try:
            self._deliver_one(self._asked[-1], message)
        finally:
            self.is_fetching = False
        return True

    def _deliver_all(self, fetched: Sequence[Sequence[bytes] | None], left_to_us_ms: int) -> bool:
        shown = self._shown
        self._is_taken()
        self.is_awake = any(message != shown for messages in fetched for message in messages or ())
        self._next_fetch_at = monotonic() + PACE_S
        if left_to_us_ms:
            self._left_to_us_until = self._asked_at + left_to_us_ms / 1000
        if fetched[-1] is None:  # left to another worker
            self._left_to_us_until = 0.0
            self._resting_until = monotonic() + LOOK_AGAIN_S
        self.is_fetching = True
        try:
            for queue, messages in zip(self._asked, fetched, strict=True):
                for message in messages or ():
                    if message != shown:
                        self._deliver_one(queue, message)
        finally:
            self.is_fetching = False
        if not self.is_awake:
            raise Empty
        return True

    def _deliver_one(self, queue: str, message: bytes) -> None:
        tag = _tag(message)
        if not tag:
            log.critical("no message, kept in %s: %.200r from %s: it has no tag", UNREADABLE, message, queue)
            return
        try:
            self.connection._deliver(self._decoded(message), queue)
        except (Unreadable, KeyError, TypeError, ValueError, AttributeError) as error:
            # What a consumer raises over it, too: the message would come again, and end each worker that gets it.
            log.critical("no message, kept in %s: %.200r from %s: %r", UNREADABLE, message, queue, error)
            self._keep_unreadable(message)
            self.qos._delivered.pop(tag, None)
        if tag in self.qos._delivered:
            return
        # Unreadable, or for a consumer that does not acknowledge.
        if tag == self.shown_tag:
            self.qos._acknowledged.append(tag)
        else:
            with self.conn_or_acquire() as client, client.pipeline() as pipe:
                pipe.zrem(self.unacked_index_key, tag).hdel(self.unacked_key, tag).execute()

    def _keep_unreadable(self, message: bytes) -> None:
        """For people to look at. What else somebody put there gives way: else this message would come again and again."""
        with self.conn_or_acquire() as client:
            if client.type(UNREADABLE) not in {b"list", b"none"}:
                client.delete(UNREADABLE)
            with client.pipeline() as pipe:
                pipe.lpush(UNREADABLE, message).ltrim(UNREADABLE, 0, 999).execute()

    def _decoded(self, message: bytes) -> Any:
        try:
            # kombu's decoder, for its extra types alone: it is several times slower.
            return loads(message) if b'"__type__"' in message else msgspec.json.decode(message)
        except ValueError as error:
            raise Unreadable(repr(error)) from error

    def _return_undelivered(self, fetched: Sequence[Sequence[bytes] | None]) -> None:
        arrived = [message for messages in fetched for message in messages or () if message != self._shown]
        self._is_taken()
        if tags := [tag for message in arrived if (tag := _tag(message))]:
            self.qos.put_back(tags)


def _tag(message: bytes) -> str:
    found = _TAG.match(message)
    return found[1].decode() if found else ""


def _is_full(refusal: redis.ResponseError) -> bool:
    """Whether Redis has no memory for the command."""
    return isinstance(refusal, redis.OutOfMemoryError)


def _is_of_a_broken_key(refusal: redis.ResponseError) -> bool:
    """Whether somebody has put something else under a key: another connection would hear the same."""
    return "WRONGTYPE" in str(refusal)


class Poller(kombu_redis.MultiChannelPoller):
    """What waits for the channels of a connection."""

    _refused = ""
    _loop: Any = None
    _look: Any = None

    def __init__(self) -> None:
        super().__init__()
        #: What is not to be waited for any longer, since the last look for parked messages.
        self.over: set[str] = set()

    def maybe_restore_messages(self) -> None:
        """Look for overdue messages; where Redis refuses, say so once, and look again the next time."""
        try:
            super().maybe_restore_messages()
            self._refused = ""
        except redis.ResponseError as refusal:
            if self._refused != str(refusal):
                log.warning("overdue messages are not looked for at present: %s", refusal)
            self._refused = str(refusal)

    def takes_messages(self) -> bool:
        """Whether each channel gets what it asks of Redis."""
        return all(channel.takes_messages() for channel in list(self._channels))

    def keep(self) -> None:
        """Say what is in the hands of this worker; what it could not say for long comes again."""
        for channel in self._channels:
            try:
                channel.qos.keep()
            except (*channel.connection_errors, redis.ResponseError) as error:
                log.info("Redis was not told what is in hand: %r", error)

    def look_after_parked(self, loop: Any) -> Callable[[], object]:
        """Look for parked messages from now on, in this loop; what ends it."""
        self._loop = loop
        self._look_at_parked()
        return self._look_no_more

    def _look_at_parked(self) -> None:
        are_some = False
        for channel in list(self._channels):
            if channel.active_queues and not channel.is_lost:
                try:
                    are_some = channel.unpark(self.over) or are_some
                    self.over.clear()
                except (*channel.connection_errors, redis.ResponseError) as error:
                    log.info("parked messages are not looked for at present: %r", error)
                break
        if self._loop is not None:
            self._look = self._loop.call_later(
                UNPARK_EVERY_S if are_some else UNPARK_SELDOM_S, self._look_at_parked
            )

    def look_soon(self) -> None:
        """Something was parked just now."""
        if self._look is not None:
            self._look.cancel()
            self._look = self._loop.call_later(UNPARK_EVERY_S, self._look_at_parked)

    def _look_no_more(self) -> None:
        if self._look is not None:
            self._look.cancel()
        self._loop = self._look = None


class Connection(kombu.Connection):
    """A connection that looks for its broker every second, however long it is away: kombu's waits grow to half a minute."""

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        """Connect, and wait for the broker where it is away."""
        return super().ensure_connection(*args, **{"interval_start": 1, "interval_step": 0, **options})

    def _connection_factory(self) -> Any:
        # Each attempt is a sign of life: while there is no connection, nobody's loop runs.
        sign_of_life.show()
        return super()._connection_factory()


class AMQP(celery.app.amqp.AMQP):
    """Celery's way to a broker, with these connections."""

    Connection = Connection


class Transport(kombu_redis.Transport):
    """kombu's Redis transport with these channels."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()
        #: What ends this transport's part in a worker's loop.
        self._leave_loop: list[Callable[[], object]] = []

    def takes_messages(self) -> bool:
        """Whether messages of the queues that are consumed arrive here, in this moment."""
        return bool(self.cycle.takes_messages())

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Be part of a worker's loop, and let channels find it.

        When a connection is lost, Celery resets its loop, and kombu forgets then that there is one: each message would be
        acknowledged by itself from then on, and waited for.
        """
        set_event_loop(loop)
        others = set(loop.on_tick)
        try:
            super().register_with_event_loop(connection, loop)
        except (OSError, redis.RedisError):
            # It begins with a look for overdue messages, which a Redis that takes no writes refuses. Celery has no hold of
            # the connection yet, and tries again with another one: at once.
            self.close_connection(connection)
            sleep(REST_S)
            raise
        options = connection.client.transport_options
        silent_s = options.get("visibility_timeout", Channel.visibility_timeout)
        self._leave_loop += [
            # kombu leaves it there: one more for each time that a connection is lost.
            partial(loop.on_tick.difference_update, loop.on_tick - others),
            loop.call_repeatedly(silent_s * KEPT_WITHIN, self.cycle.keep).cancel,
            self.cycle.look_after_parked(loop),
        ]

    def close_connection(self, connection: Any) -> None:
        """Close it, and have no part in a worker's loop any more."""
        while self._leave_loop:
            self._leave_loop.pop()()
        super().close_connection(connection)
