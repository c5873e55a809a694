"""Restoring PostgreSQL, Redis or both: what is true afterwards, by the commands that docs/backup-and-restore.md names."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from django.core.management import call_command
from django.db import connection

from shop import keys, stock
from shop.domain import Order
from shop.fulfilment import cancel, fulfil
from shop.intake import derived_id
from shop.models import Product
from shop.movements import Movement, move
from shop.stores import redis_client
from tests.builders import (
    a_sku,
    accepted,
    an_order,
    assert_at_rest,
    free_in_redis,
    status_in_books,
    status_in_redis,
)
from workers.embedded import PostgresServer, RedisServer

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "backup-and-restore.md"
#: The commands of the page, by the headings above them.
COMMANDS = dict(re.findall(r"^#+ ([^\n]+)\n(?:(?!^#).)*?^```sh\n(.*?)^```", PAGE.read_text(), re.M | re.S))


class Operator:
    """Somebody who does what the page says."""

    def __init__(self, folder: Path, redis_server: RedisServer, postgres_server: PostgresServer) -> None:
        self._folder = folder
        self._redis = redis_server
        address = urlsplit(redis_server.url)
        (folder / "manage.py").symlink_to(ROOT / "manage.py")
        programs = [str(Path(sys.executable).parent), str(postgres_server.programs), os.environ["PATH"]]
        self._env = os.environ | {
            "PATH": ":".join(programs),
            "PYTHONPATH": str(ROOT),
            "REDIS_HOST": str(address.hostname),
            "REDIS_PORT": str(address.port),
            "REDISCLI_AUTH": str(address.password),
            "REDIS_DIR": str(redis_server.folder),
        }

    def do(self, heading: str) -> str:
        """Run the commands under a heading; what they print."""
        program = ["bash", "-euc", COMMANDS[heading]]
        done = subprocess.run(
            program, cwd=self._folder, env=self._env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def restore_postgresql(self) -> None:
        """From the backup."""
        connection.close()
        self.do("PostgreSQL")

    def restore_redis(self) -> None:
        """From the backup."""
        self._redis.stop()
        self.do("Redis")
        self._redis.start()

    def lose_redis(self) -> None:
        """With all that it holds."""
        redis_client().flushdb()


@pytest.fixture
def operator(
    tmp_path: Path, client: "redis.Redis", redis_server: RedisServer, postgres_server: PostgresServer
) -> Operator:
    """With a folder of their own for backups."""
    return Operator(tmp_path, redis_server, postgres_server)


def sell(*orders: Order) -> list[str]:
    """Bring orders to their ends, those that are there already, too; the ends."""
    client = redis_client()
    return [str(end) for end in fulfil(accepted(client, *orders), client=client).values()]


def deliver(sku: str, units: int) -> None:
    """A delivery, as the API takes it in; under a key of its SKU."""
    request = derived_id("stock movement", "shop", f"a pallet of {sku}")
    made = move(client=redis_client(), request=request, by="shop", sku=sku, delta=units, reason="delivery")
    assert isinstance(made, Movement)
    assert made.fresh


def everywhere(order: Order) -> tuple[str | None, str | None]:
    """An order's status in PostgreSQL and in Redis."""
    return status_in_books(order), status_in_redis(redis_client(), order)


LET_BOTH_AGREE = "Let both tell one story"


def test_every_command_of_the_page_is_run_by_a_test_here() -> None:
    assert list(COMMANDS) == ["Back up", "PostgreSQL", "Redis", LET_BOTH_AGREE]
    assert len(COMMANDS) == PAGE.read_text().count("```sh")


def test_what_redis_remembers_is_in_the_books_again_when_postgresql_comes_from_a_backup(
    operator: Operator,
) -> None:
    sku = a_sku(stock=10)
    before, cancelled_later = an_order((sku, 1)), an_order((sku, 2))
    sell(before, cancelled_later)
    operator.do("Back up")
    confirmed, rejected, cancelled, waiting = (an_order((sku, units)) for units in (4, 9, 1, 1))
    sell(confirmed, rejected, cancelled)
    for order in (cancelled, cancelled_later):
        cancel(order.id, client=redis_client())
    accepted(redis_client(), waiting)

    operator.restore_postgresql()
    forgotten = [
        status_in_books(order) for order in (before, cancelled_later, confirmed, rejected, cancelled)
    ]
    said = operator.do(LET_BOTH_AGREE)

    assert forgotten == ["confirmed", "confirmed", None, None, None]
    assert "4 orders booked from Redis" in said
    ends = {
        order.id: everywhere(order) for order in (before, cancelled_later, confirmed, rejected, cancelled)
    }
    told = ["confirmed", "cancelled", "confirmed", "rejected", "cancelled"]
    assert list(ends.values()) == [(status, status) for status in told]
    assert sell(waiting) == ["confirmed"]
    assert free_in_redis(redis_client(), sku) == 10 - 1 - 4 - 1
    assert_at_rest(redis_client())


def test_without_it_units_that_clients_were_promised_would_be_sold_again(operator: Operator) -> None:
    sku = a_sku(stock=10)
    operator.do("Back up")
    first = an_order((sku, 8))
    sell(first)

    operator.restore_postgresql()
    stock.begin_epoch(redis_client())
    stock.refresh(redis_client(), [sku])
    second = sell(an_order((sku, 8)))

    assert (everywhere(first), second) == ((None, "confirmed"), ["confirmed"])


@pytest.mark.parametrize("redis_comes", ["from the same backup", "from nowhere"])
def test_orders_since_the_backup_are_lost_with_both_stores_and_come_back_under_their_ids_when_sent_again(
    operator: Operator, redis_comes: str
) -> None:
    sku = a_sku(stock=10)
    before, waiting, since = (an_order((sku, units)) for units in (1, 2, 7))
    sell(before)
    accepted(redis_client(), waiting)
    operator.do("Back up")
    sell(waiting, since)

    operator.restore_postgresql()
    operator.restore_redis() if redis_comes == "from the same backup" else operator.lose_redis()
    operator.do(LET_BOTH_AGREE)

    known = "queued" if redis_comes == "from the same backup" else None
    assert [everywhere(order)[1] for order in (waiting, since)] == [known, None]
    assert Product.objects.get(sku=sku).confirmed == 1
    assert sell(since, waiting, an_order((sku, 1))) == ["confirmed", "confirmed", "rejected"]
    assert free_in_redis(redis_client(), sku) == 0
    assert_at_rest(redis_client())


@pytest.mark.parametrize("redis_comes", ["from a backup", "from nowhere"])
def test_redis_follows_a_postgresql_that_knows_more(operator: Operator, redis_comes: str) -> None:
    sku = a_sku(stock=10)
    kept, cancelled, decided = (an_order((sku, units)) for units in (1, 2, 3))
    sell(kept, cancelled)
    accepted(redis_client(), decided)
    operator.do("Back up")
    sell(decided, an_order((sku, 4)))
    cancel(cancelled.id, client=redis_client())
    deliver(sku, 5)

    operator.restore_redis() if redis_comes == "from a backup" else operator.lose_redis()
    operator.do(LET_BOTH_AGREE)

    told = [status_in_redis(redis_client(), order) for order in (kept, cancelled, decided)]
    ends = ["confirmed", "cancelled", "confirmed"]
    assert told == (ends if redis_comes == "from a backup" else [None] * 3)
    assert [status_in_books(order) for order in (kept, cancelled, decided)] == ends
    assert free_in_redis(redis_client(), sku) == 10 + 5 - 1 - 3 - 4
    assert sell(an_order((sku, 7)), decided, an_order((sku, 1))) == ["confirmed", "confirmed", "rejected"]
    assert_at_rest(redis_client())


def test_an_order_that_lives_on_a_lost_delivery_is_named_and_kept_until_that_is_entered_again(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    sku = a_sku(stock=1)
    operator.do("Back up")
    deliver(sku, 5)
    for remembered in redis_client().scan_iter(match=keys.movement("*")):
        redis_client().delete(remembered)  # as time does
    promised = an_order((sku, 6))
    sell(promised)

    operator.restore_postgresql()
    with pytest.raises(SystemExit) as ended:
        call_command("reconcile", "--after-restore")
    named = capsys.readouterr().out
    in_between = everywhere(promised)
    deliver(sku, 5)
    operator.do(LET_BOTH_AGREE)

    assert ended.value.code == 1
    assert promised.id in named
    assert in_between == (None, "confirmed")
    assert everywhere(promised) == ("confirmed", "confirmed")
    assert free_in_redis(redis_client(), sku) == 0
    assert_at_rest(redis_client())


def test_a_counter_of_a_product_that_the_backup_does_not_have_is_forgotten(operator: Operator) -> None:
    operator.do("Back up")
    sku = a_sku(stock=5)
    stock.refresh(redis_client(), [sku])

    operator.restore_postgresql()
    operator.do(LET_BOTH_AGREE)

    assert not redis_client().exists(keys.stock(sku), keys.version(sku))
    assert sell(an_order((sku, 1))) == ["rejected"]
