"""The Celery application: how worker processes get, keep, finish and lose messages.

It names the packages that hold the work by string only.
"""

import os
from pathlib import Path
from typing import Any

import msgspec
from celery import Celery
from celery.signals import worker_init
from kombu import Exchange, Queue
from kombu.serialization import register
from kombu.utils.json import loads

from workers.heartbeat import Heartbeat
from workers.loops import WorkerSigns
from workers.memory import keep_what_is_loaded
from workers.sign_of_life import SHOW_EVERY_S
from workers.time_limits import spare_the_idle

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
# Flower reads it after this module. Without `--conf` it would otherwise show everything to anyone, on every address.
os.environ.setdefault("FLOWER_CONF", str(Path(__file__).with_name("flower.py")))

#: A message of which its worker has said nothing for so long is delivered again (`workers.transport`). It must be short: an
#: order of a killed worker waits for it; and longer than any task may take: with kombu's own transport nothing is said.
VISIBILITY_TIMEOUT_S = 15
TASK_SOFT_LIMIT_S = 10
TASK_HARD_LIMIT_S = 12

DAY_S = 86_400

#: Messages in hand, fetched and not acknowledged, for each process of the pool.
PREFETCH_PER_PROCESS = 256

# Events are JSON as everywhere in Celery, written by a faster encoder: there are three for each task.
_encode: Any = msgspec.json.encode
register("event-json", _encode, loads, "application/json", "utf-8")

app = Celery(
    "reserva",
    amqp="workers.transport:AMQP",
    include=["tasks.orders", "tasks.maintenance", "tasks.start", "tasks.replacements"],
)
app.steps["consumer"].add(Heartbeat)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.update(
    # Celery's Django support closes the database connection around every task unless it is told to keep it; opening
    # one costs PostgreSQL more than all the rest of an order. Connections that break are replaced by `shop.stores`.
    CELERY_DB_REUSE_MAX=100_000,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_acks_on_failure_or_timeout=True,
    task_ignore_result=True,
    task_send_sent_event=False,
    worker_send_task_events=True,
    event_serializer="event-json",
    task_track_started=True,
    task_soft_time_limit=TASK_SOFT_LIMIT_S,
    task_time_limit=TASK_HARD_LIMIT_S,
    task_serializer="json",
    accept_content=["json"],
    enable_utc=True,
    timezone="UTC",
    task_queues=[Queue(name, Exchange(name), routing_key=name) for name in ("orders", "maintenance")],
    task_default_queue="maintenance",
    task_routes={"tasks.orders.*": {"queue": "orders"}, "tasks.maintenance.*": {"queue": "maintenance"}},
    # Three batches in hand: at work, next in turn, gathering. What a frozen worker holds is what others wait for.
    worker_prefetch_multiplier=PREFETCH_PER_PROCESS,
    worker_enable_prefetch_count_reduction=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    # What a Redis that is full or read-only answers is a channel error to Celery: it would end the worker.
    broker_channel_error_retry=True,
    broker_connection_timeout=2,
    broker_transport_options={
        "visibility_timeout": VISIBILITY_TIMEOUT_S,
        # Look for messages of killed workers every second (kombu's default cadence finds them after 100).
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        # A worker killed while it looks keeps all others from looking for so long (kombu's default: 5 minutes).
        "unacked_mutex_expire": 5,
        # kombu sets no time-out by itself: publishing to a frozen Redis would hang for ever.
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "retry_on_timeout": True,
        "health_check_interval": 10,
    },
    # Celery compares the scheduler's clock with the worker's: with a short expiry a few seconds between them would end all
    # housekeeping, and without one what piles up while no worker runs would never be thrown away.
    beat_schedule={
        "sweep": {"task": "tasks.maintenance.sweep", "schedule": 2.0, "options": {"expires": DAY_S}},
        "reconcile": {"task": "tasks.maintenance.reconcile", "schedule": 60.0, "options": {"expires": DAY_S}},
    },
    # Each turn of its loop is a sign of life.
    beat_scheduler="workers.loops:Scheduler",
    beat_max_loop_interval=SHOW_EVERY_S,
)
app.steps["worker"].add(WorkerSigns)


@worker_init.connect
def _settle_down(**_: Any) -> None:
    keep_what_is_loaded()
    spare_the_idle()
