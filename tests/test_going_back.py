"""PostgreSQL goes back to an earlier state under load: what clients were told is true again soon, without a command."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.db import connection

from shop import keys, reconciliation
from shop.models import Order, Product, StockMovement
from shop.stores import redis_client
from tests.builders import a_sku, wait_until
from tests.chaos.proxy import FaultProxy, Trouble
from tests.rush_hour import Delivery, RushHour, passed
from tests.standing_in import Site, known_to, promote, streams
from workers.embedded import PostgresServer
from workers.ports import LOOPBACK

#: In what time all is well again, in seconds.
WELL_WITHIN_S = 120
#: Orders shown as confirmed that must be lost, so that a story tells something.
LOST_AT_LEAST = 100


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Site]:
    """A shop that the stories of this module share."""
    redis_client().flushdb()
    with Site(tmp_path_factory.mktemp("site"), postgres_server) as running:
        yield running


class Story:
    """A rush hour in which PostgreSQL goes back."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.plenty = [a_sku(stock=100_000, sku=f"plenty-{at}-{time.monotonic_ns()}") for at in range(20)]
        self.fed = [a_sku(stock=0, sku=f"fed-{at}-{time.monotonic_ns()}") for at in range(3)]
        self.hour = RushHour(site.system, self.plenty, self.fed)
        self.seen = self.hour.seen

    def goes_well(self) -> None:
        """Orders are confirmed, cancelled and delivered for, as ever."""
        enough = len(self.seen.confirmed) + 100, len(self.seen.deliveries) + 3, len(self.seen.cancelled) + 3
        wait_until(
            lambda: (
                len(self.seen.confirmed) >= enough[0]
                and len(self.seen.deliveries) >= enough[1]
                and len(self.seen.cancelled) >= enough[2]
            ),
            timeout_s=WELL_WITHIN_S,
            what="orders, deliveries and cancellations",
        )

    def goes_on_for(self, seconds: float) -> None:
        """So long, and until enough was confirmed and delivered, and sweeps have counted on."""
        before, followed = len(self.seen.confirmed), redis_client().get(keys.FOLLOWED)
        delivered, is_over = len(self.seen.deliveries), passed(seconds)
        wait_until(
            lambda: (
                is_over()
                and len(self.seen.confirmed) >= before + 2 * LOST_AT_LEAST
                and len(self.seen.deliveries) > delivered
                and redis_client().get(keys.FOLLOWED) != followed
            ),
            what="what is to be lost",
        )

    def lost_with(self, server: PostgresServer) -> tuple[set[str], list[Delivery]]:
        """Orders that were shown as confirmed, and deliveries that were answered, of which a server has no row."""
        confirmed, deliveries = self.seen.confirmed, list(self.seen.deliveries)
        known = known_to(server, "movement", {delivery.request for delivery in deliveries})
        return (
            confirmed - known_to(server, "order", confirmed),
            [delivery for delivery in deliveries if delivery.request not in known],
        )

    def ends_well(self, lost: tuple[set[str], list[Delivery]], went_back_at: float) -> None:
        """What has to hold once the rush hour is over; `lost`: what PostgreSQL had no row of when it came back."""
        client = redis_client()
        wait_until(
            lambda: not client.zcard(keys.OPEN_ORDERS) and not client.zcard(keys.CANCELLATIONS),
            timeout_s=WELL_WITHIN_S,
            what="the end of every order",
        )
        assert time.monotonic() - went_back_at < WELL_WITHIN_S
        connection.close()
        seen = self.seen
        rows = {
            str(row): status
            for row, status in Order.objects.filter(id__in=seen.accepted).values_list("id", "status")
        }
        assert set(rows) == seen.accepted
        # The state that was shown last, and the row; and which of the two were to be.
        assert {
            order: (ends, rows.get(order)) for order, ends in seen.ends.items() if rows.get(order) != ends[-1]
        } == {}
        wanted = {order: "cancelled" if order in seen.cancelled else "confirmed" for order in seen.confirmed}
        assert {order: (rows[order], end) for order, end in wanted.items() if rows[order] != end} == {}
        on_sale = dict(Product.objects.filter(sku__in=self.fed).values_list("sku", "on_sale"))
        assert on_sale == {sku: self.hour.delivered()[sku] for sku in self.fed}
        requests = [
            str(each)
            for each in StockMovement.objects.filter(sku__in=self.fed, kind="adjustment").values_list(
                "request", flat=True
            )
        ]
        assert sorted(requests) == sorted(delivery.request for delivery in seen.deliveries)
        report = reconciliation.reconcile(client, ledger=True)
        assert [str(difference) for difference in report.differences] == []
        log = self.site.system.log("worker")
        assert "PostgreSQL went back" in log
        assert [delivery for delivery in lost[1] if delivery.request not in log] == []


def test_after_a_failover_to_a_replica_that_lagged_every_confirmed_order_is_there_again(site: Site) -> None:
    story = Story(site)
    with FaultProxy((LOOPBACK, site.now.port)) as link, story.hour:
        replica = site.replica(link)
        streams(replica)
        story.goes_well()
        link.trouble(Trouble(is_silent=True))
        story.goes_on_for(2)
        site.lose()
        promote(replica)
        lost = story.lost_with(replica)
        went_back_at = time.monotonic()
        site.goes_on_with(replica)
        story.goes_well()

    assert len(lost[0]) >= LOST_AT_LEAST
    assert lost[1]
    story.ends_well(lost, went_back_at)


def starts_from(prepare: Callable[[Site], Path], site: Site) -> None:
    """The story of a server that is lost, and of another one that starts from what was put aside before."""
    story = Story(site)
    with story.hour:
        story.goes_well()
        folder = prepare(site)
        story.goes_on_for(2)
        site.lose()
        server = PostgresServer(folder).start()
        lost = story.lost_with(server)
        went_back_at = time.monotonic()
        site.goes_on_with(server)
        story.goes_well()

    assert len(lost[0]) >= LOST_AT_LEAST
    assert lost[1]
    story.ends_well(lost, went_back_at)


@pytest.mark.depth
def test_after_a_base_backup_is_started_every_confirmed_order_is_there_again(site: Site) -> None:
    starts_from(lambda site: site.base_backup("backup"), site)


@pytest.mark.depth
def test_after_a_cold_copy_is_started_every_confirmed_order_is_there_again(site: Site) -> None:
    starts_from(Site.cold_copy, site)


@pytest.mark.depth
def test_after_a_dump_is_restored_every_confirmed_order_is_there_again(site: Site) -> None:
    """While the shop is open, which the page on backups advises against."""
    story = Story(site)
    dump = str(site.folder / "dump")
    url = site.now.url
    with story.hour:
        story.goes_well()
        site.run("pg_dump", f"--dbname={url}", "--format=custom", f"--file={dump}")
        dumped = story.seen.confirmed, list(story.seen.deliveries)
        story.goes_on_for(2)
        site.run("psql", url, "--quiet", "--command=DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        went_back_at = time.monotonic()
        lost = (
            story.seen.confirmed - dumped[0],
            [each for each in story.seen.deliveries if each not in dumped[1]],
        )
        site.run(
            "pg_restore", f"--dbname={url}", "--no-owner", "--exit-on-error", "--single-transaction", dump
        )
        story.goes_well()

    assert len(lost[0]) >= LOST_AT_LEAST
    assert lost[1]
    story.ends_well(lost, went_back_at)
