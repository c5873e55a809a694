"""Group commit for tasks: whatever waits goes to the pool as one job, as soon as the last one is done.

A task has it by `Strategy="workers.batching:strategy"` and a function `batch`, which gets the bodies of many messages
(JSON of Celery's protocol 2: arguments, keyword arguments, embedded) and answers for each of them (`Outcome`). Nobody
waits for company: a lone message goes at once, and under load batches grow by themselves while the one before them is
worked on. To Celery each message stays a task of its own, with its events, its acknowledgement, its place in `inspect`
and its revocation.

Whatever is out of the ordinary goes Celery's own way, one by one: messages with an ETA, an expiry or retries, those that
come again after a worker died (one of them may have killed it), those under a rate limit, those that `batch` does not
want, and all of a batch that failed. So a message that breaks or kills its worker does so alone the next time.

Without an event loop, or with another broker than Redis, everything goes Celery's own way.
"""

import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from itertools import chain
from typing import Any

import msgspec
from celery import current_app, signals
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.imports import symbol_by_name
from celery.utils.log import get_logger
from celery.worker import request as celery_request
from celery.worker import state
from celery.worker import strategy as celery_strategy
from celery.worker.request import create_request_cls
from kombu.asynchronous import get_event_loop
from kombu.utils.encoding import safe_repr, safe_str

from workers.fail_points import reach
from workers.task_events import TaskEvents
from workers.transport import A_WHILE_MS, Channel, Park, Transport
from workers.turn import pool_turn

log = get_logger(__name__)

#: Messages and bytes of one batch, at most: some milliseconds of work, some tens at worst.
BATCH_MESSAGES = 256
BATCH_BYTES = 256 * 1024
#: A batch that takes longer is interrupted; one that can't be interrupted costs its process. Far below the visibility
#: timeout, so that nobody else gets its messages meanwhile.
BATCH_SOFT_LIMIT_S = 3
BATCH_HARD_LIMIT_S = 5


class Unhandled(Enum):
    """What `batch` may say of a message instead of a result."""

    #: Run the task for it alone, Celery's own way.
    ALONE = "alone"
    #: Nothing was done with it yet: it is in the next batch.
    AGAIN = "again"


#: The task's result, shown in events; or why there is none yet: it is run alone, or parked until what it waits for is over.
Outcome = str | Unhandled | Park


class Wait(Exception):
    """A task that is run alone must wait: raise `celery.exceptions.Retry` of it. `park`: for what; None means a while."""

    def __init__(self, reason: str, park: Park | None = None) -> None:
        super().__init__(reason, park)  # all of it: that is how it travels from the pool's process
        self.park = park

    def __str__(self) -> str:
        return str(self.args[0])


class Request(celery_request.Request):  # type: ignore[misc]
    """A task that can't be revoked, and whose message is parked when it is to be run again.

    Celery would publish another message, acknowledge the first, and keep the new one in a worker's hands until its time
    comes.
    """

    def revoked(self) -> bool:
        """Never: what was promised to somebody is not dropped. The sweeper would send again what Celery drops, for hours."""
        if self.id in state.revoked:
            log.warning("task %s was revoked, and is done all the same", self.id)
        return False

    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> None:
        """As in Celery, and those come back that were parked because nothing got through."""
        super().on_success(failed__retval__runtime, **kwargs)
        if not failed__retval__runtime[0]:
            _call_back_others(self._message.channel, self.name)

    def on_retry(self, exc_info: Any) -> None:
        """Park the message."""
        channel = self._message.channel
        if isinstance(channel, Channel):
            tag = self._message.delivery_tag
            channel.park({tag: getattr(exc_info.exception.exc, "park", None) or Park.a_while(tag)})
            self.acknowledged = True
        elif hub := get_event_loop():
            # Another broker parks nothing: the message stays in hand meanwhile.
            hub.call_later(A_WHILE_MS / 1000, self.reject, True)
        else:
            self.reject(requeue=True)
        reason = safe_repr(exc_info.exception.exc)
        self.send_event("task-retried", exception=reason, traceback=safe_str(exc_info.traceback))


def _call_back_others(channel: Any, task_name: str) -> None:
    if isinstance(channel, Channel) and not channel.is_lost:
        channel.connection.cycle.over.add(task_name)


def run_batch(task_name: str, bodies: Sequence[bytes]) -> list[Outcome]:
    """In the pool's process: call the task's `batch` when it is this process's turn."""
    task: Any = current_app.tasks[task_name]
    has_begun = False
    try:
        pool_turn.wait()
        has_begun = True
        outcomes: list[Outcome] = task.batch(bodies)
    except SoftTimeLimitExceeded:
        if has_begun:
            raise
        # Other batches take their time.
        return [Unhandled.AGAIN] * len(bodies)
    finally:
        pool_turn.end()
    if len(outcomes) != len(bodies):
        raise ValueError(f"{task_name} answered {len(outcomes)} of {len(bodies)} messages")
    return outcomes


def strategy(task: Any, app: Any, consumer: Any) -> Callable[..., Any]:
    """What Celery calls for each task when a consumer starts; returns what handles its messages."""
    alone = celery_strategy.default(task, app, consumer)
    # Of Celery's pools, prefork alone answers in the loop's thread, reports what a job raised, and has time limits.
    is_prefork = consumer.pool.uses_semaphore
    if consumer.hub is None or not is_prefork or not isinstance(consumer.connection.transport, Transport):
        return alone
    before = getattr(consumer.strategies.get(task.name), "__self__", None)
    if isinstance(before, Line):
        before.forget()
    return Line(task, app, consumer, alone).receive


def _keep_once_written(job: Any) -> None:
    """Let a shutdown discard a job only while its process has nothing of it.

    Celery's pool discards what it has not yet heard to be started, though it may be done: then it would be done twice, and
    its process waits half a minute for somebody to take the result (billiard's `_ensure_messages_consumed`).
    """
    # By a weak reference: what refers to itself, a batch and all its messages with it, stays until the collector comes. It
    # came every 2,000 orders, and stopped the worker for 30 ms.
    this, discard = weakref.proxy(job), type(job).discard
    job.discard = lambda: None if this._write_to else discard(this)


class Line:
    """The messages of one task that wait in this worker, and the batch that is being worked on."""

    def __init__(self, task: Any, app: Any, consumer: Any, alone: Callable[..., Any]) -> None:
        self._task, self._app, self._consumer = task, app, consumer
        self._connection = consumer.connection
        self._receive_alone = alone
        self._events = TaskEvents(consumer)
        self._request = create_request_cls(
            symbol_by_name(task.Request),
            task,
            consumer.pool,
            consumer.hostname,
            consumer.event_dispatcher,
            app=app,
        )
        self._waiting: deque[Any] = deque()
        self._is_scheduled = False
        #: Batches that were handed to the pool. When the connection is lost, the pool drops those it has not written yet.
        self._at_work: list[list[Any]] = []

    # --- in ---------------------------------------------------------------------------------------

    def receive(self, message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **options: Any) -> Any:
        """Take a message into the line, or hand it to Celery."""
        headers = message.headers
        is_special = any(map(headers.get, ("eta", "expires", "retries", "redelivered")))
        if body is not None or is_special or self._consumer.task_buckets[self._task.name]:
            return self._receive_alone(message, body, ack, reject, callbacks, **options)
        try:
            arguments = msgspec.json.decode(message.body)
            _, _, embedded = arguments
        except (msgspec.DecodeError, ValueError, TypeError):
            embedded = {"it": "is no message of protocol 2"}
        if any((embedded or {}).values()):
            return self._receive_alone(message, body, ack, reject, callbacks, **options)
        request = self._request(
            message,
            # At once: the transport gathers acknowledgements by itself.
            on_ack=message.ack_log_error,
            on_reject=reject,
            app=self._app,
            hostname=self._consumer.hostname,
            eventer=self._consumer.event_dispatcher,
            task=self._task,
            connection_errors=self._consumer.connection_errors,
            body=arguments,
            decoded=True,
            headers=headers,
        )
        if request.id in state.revoked and request.revoked():
            return None
        signals.task_received.send(sender=self._consumer, request=request)
        self._events.tell(
            "task-received",
            request,
            name=request.name,
            args=request.argsrepr,
            kwargs=request.kwargsrepr,
            root_id=request.root_id,
            parent_id=request.parent_id,
            retries=0,
            eta=None,
            expires=None,
        )
        state.task_reserved(request)
        for callback in callbacks or ():
            callback(request)
        self._waiting.append(request)
        self._schedule()
        return None

    def _schedule(self) -> None:
        """Begin a batch when this turn of the loop is over: all that came with this message come along."""
        if not self._is_scheduled and self._may_begin():
            self._is_scheduled = True
            self._consumer.hub.call_soon(self._begin)

    # --- work -------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._is_scheduled = False
        if self._is_over():
            self.forget()
        while self._may_begin() and (batch := self._next_batch()):
            self._at_work.append(batch)
            # The pool's semaphore: a free process, or the first that becomes free.
            self._consumer.controller._quick_acquire(self._hand_over, batch)

    def _is_over(self) -> bool:
        """Whether the connection is gone that brought these messages; a new one has a line of its own."""
        return self._consumer.connection is not self._connection

    def forget(self) -> None:
        """Drop all. Messages of a connection that is gone come again; they can't be acknowledged here."""
        for request in chain(self._waiting, *self._at_work):
            state.active_requests.discard(request)
        self._waiting.clear()

    def _may_begin(self) -> bool:
        """Whether a batch may go: when none is at work; and a full one already when one is, to wait there for its turn."""
        return not self._at_work or (len(self._at_work) == 1 and len(self._waiting) >= BATCH_MESSAGES)

    def _next_batch(self) -> list[Any]:
        batch: list[Any] = []
        size = 0
        while self._waiting and len(batch) < BATCH_MESSAGES:
            size += len(self._waiting[0].message.body)
            if batch and size > BATCH_BYTES:
                break
            request = self._waiting.popleft()
            if request.id not in state.revoked or not request.revoked():
                batch.append(request)
        return batch

    def _hand_over(self, batch: list[Any]) -> None:
        began = time.monotonic()
        job = self._consumer.pool.apply_async(
            run_batch,
            args=(self._task.name, [request.message.body for request in batch]),
            accept_callback=lambda pid, accepted_at: self._on_accepted(batch, pid, accepted_at),
            callback=lambda outcomes: self._on_done(batch, outcomes, time.monotonic() - began),
            error_callback=lambda failure: self._on_failed(batch, failure),
            soft_timeout=BATCH_SOFT_LIMIT_S,
            timeout=BATCH_HARD_LIMIT_S,
            correlation_id=batch[0].id,
        )
        if job is not None:
            _keep_once_written(job)

    def _on_accepted(self, batch: list[Any], pid: int, accepted_at: float) -> None:
        """As `Request.on_accepted`."""
        for request in batch:
            request.worker_pid = pid
            request.time_start = time.time() - (time.monotonic() - accepted_at)
            state.task_accepted(request)
            self._events.tell("task-started", request)

    # --- out --------------------------------------------------------------------------------------

    def _on_done(self, batch: list[Any], outcomes: Sequence[Outcome], runtime_s: float) -> None:
        parked: dict[Any, Park] = {}
        again: list[Any] = []
        try:
            for request, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, str):
                    self._succeed(request, outcome, runtime_s)
                elif isinstance(outcome, Park):
                    parked[request] = outcome
                elif outcome is Unhandled.AGAIN:
                    again.append(request)
                else:
                    self._go_alone(request)
            self._wait_again(again)
            self._park(parked)
            if any(map(self._got_through, outcomes)):
                _call_back_others(batch[0].message.channel, self._task.name)
        finally:
            # Whatever Redis did meanwhile, and whatever went wrong: what is not acknowledged comes again.
            self._go_on(batch)

    def _got_through(self, outcome: Outcome) -> bool:
        return isinstance(outcome, str) or (isinstance(outcome, Park) and outcome.awaited != self._task.name)

    def _succeed(self, request: Any, result: str, runtime_s: float) -> None:
        """As `Request.on_success`."""
        state.task_ready(request)
        reach("worker.before_acknowledge")
        request.acknowledge()
        self._events.tell("task-succeeded", request, result=repr(result), runtime=runtime_s)

    def _wait_again(self, requests: list[Any]) -> None:
        if requests:
            log.info("%d messages are offered again: other batches took their time", len(requests))
        for request in reversed(requests):
            state.active_requests.discard(request)
            self._waiting.appendleft(request)

    def _park(self, parked: Mapping[Any, Park]) -> None:
        for request in parked:
            state.task_ready(request)
        if parked and not self._is_over():
            channel = next(iter(parked)).message.channel
            channel.park({request.message.delivery_tag: park for request, park in parked.items()})

    def _go_alone(self, request: Any) -> None:
        if request.message.channel.is_lost:
            # It comes again. Celery flushes its pool when the connection is lost, hears there of a process that died, and
            # then empties the pool's line: a job that began in between would never be done, and its place in the pool
            # never be free again. With all places gone, the worker fetched and did nothing, until the next lost connection.
            state.task_ready(request)
        else:
            self._consumer.on_task_request(request)

    def _on_failed(self, batch: list[Any], failure: Any) -> None:
        exception = getattr(failure.exception, "exc", failure.exception)
        log.error("a batch of %d failed, its messages go one by one: %r", len(batch), exception)
        try:
            for request in batch:
                self._go_alone(request)
        finally:
            self._go_on(batch)

    def _go_on(self, batch: list[Any]) -> None:
        self._at_work.remove(batch)
        if self._waiting and not state.should_stop:
            self._schedule()
