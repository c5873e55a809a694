"""Prometheus's own word on our metrics, alert rules and dashboard: checked by promtool, and scraped by a real Prometheus."""

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import a_sku, wait_until
from tests.pages import ROOT, Page
from tests.programs import PROMETHEUS, PROMTOOL
from tests.running import System
from workers.ports import LOOPBACK, free_port
from workers.processes import Child, Part

RULES = ROOT / "docs" / "monitoring" / "alerts.yml"
TESTS_OF_RULES = RULES.with_name("alerts_test.yml")
DASHBOARD = json.loads((RULES.parent / "grafana-dashboard.json").read_text())
PAGE = Page(path=ROOT / "docs" / "monitoring.md", text=(ROOT / "docs" / "monitoring.md").read_text())
#: What Grafana puts there with scrapes each second: four of them.
RATE_INTERVAL = "4s"


def promtool(*arguments: object, stdin: str = "", cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """Run it; what it says on both outputs is one text."""
    return subprocess.run(
        [PROMTOOL.installed, *map(str, arguments)],
        input=stdin,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def alerts(rules: dict[str, Any]) -> list[dict[str, Any]]:
    """Every alert of a file of rules."""
    return [rule for group in rules["groups"] for rule in group["rules"]]


def verdict_on(folder: Path, **changed: str) -> str:
    """What the tests of the rules say of rules of which each has these fields changed, where it has them."""
    rules = yaml.safe_load(RULES.read_text())
    for rule in alerts(rules):
        rule |= {field: text for field, text in changed.items() if field in rule}
    (folder / RULES.name).write_text(yaml.safe_dump(rules))
    (folder / TESTS_OF_RULES.name).write_text(TESTS_OF_RULES.read_text())
    done = promtool("test", "rules", TESTS_OF_RULES.name, cwd=folder)
    assert (done.returncode == 0) == ("FAILED" not in done.stdout), done.stdout
    return done.stdout


def failed(verdict: str) -> set[str]:
    """The alerts of which a test failed."""
    return set(re.findall(r"alertname: ?(Reserva\w+)", verdict))


def test_each_alert_is_expected_to_fire_and_to_be_silent() -> None:
    expected = {
        (test["alertname"], "exp_alerts" in test)
        for story in yaml.safe_load(TESTS_OF_RULES.read_text())["tests"]
        for test in story.get("alert_rule_test", [])
    }

    assert expected == {
        (rule["alert"], fires)
        for rule in alerts(yaml.safe_load(RULES.read_text()))
        for fires in (True, False)
    }


def test_the_rules_are_valid() -> None:
    done = promtool("check", "rules", RULES)

    assert done.returncode == 0, done.stdout


def test_each_alert_fires_on_what_it_is_meant_for_and_not_before(tmp_path: Path) -> None:
    verdict = verdict_on(tmp_path)

    assert "SUCCESS" in verdict, verdict


@pytest.mark.parametrize(
    ("fault", "field"),
    [({"expr": "vector(1)"}, "expr"), ({"for": "0s"}, "for")],
    ids=["always fires", "fires at once"],
)
def test_an_alert_that_does_not_do_what_it_is_meant_for_is_found(
    fault: dict[str, str], field: str, tmp_path: Path
) -> None:
    affected = {rule["alert"] for rule in alerts(yaml.safe_load(RULES.read_text())) if field in rule}

    assert failed(verdict_on(tmp_path, **fault)) == affected


class Prometheus:
    """A Prometheus that runs as the page says, with a system of ours before it, scraped each second."""

    def __init__(self, folder: Path, system: System) -> None:
        (block,) = PAGE.blocks("yaml")
        address = system.url.removeprefix("http://")
        config = block.replace("127.0.0.1:8000", address).replace(
            "scrape_interval: 5s", "scrape_interval: 1s"
        )
        assert address in config
        assert "scrape_interval: 1s" in config
        (folder / "prometheus.yml").write_text(config)
        (folder / RULES.name).write_text(RULES.read_text())
        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}"
        self.config = folder / "prometheus.yml"
        self._child = Child(
            Part(
                name="prometheus",
                argv=[
                    PROMETHEUS.installed,
                    f"--config.file={self.config}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={LOOPBACK}:{port}",
                ],
                log=folder / "prometheus.log",
                cwd=folder,
                is_ready=self._is_ready,
            )
        )

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def wait_ready(self) -> None:
        self._child.wait_ready()

    def stop(self) -> None:
        self._child.stop()

    def ask(self, path: str, **query: str) -> Any:
        """What its API answers. An expression that it cannot answer raises AssertionError with the reason."""
        try:
            with urllib.request.urlopen(
                f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10
            ) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(error.read().decode()) from error

    def values(self, expression: str) -> list[float]:
        """An expression's value now, for each of its series."""
        found = self.ask("query", query=expression)["result"]
        return [float(sample["value"][1]) for sample in found]


@pytest.fixture(scope="module")
def prometheus(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, which has scraped a system that was compared."""
    from shop import reconciliation
    from shop.stores import redis_client

    reconciliation.reconcile(redis_client())
    started = Prometheus(tmp_path_factory.mktemp("prometheus"), system)
    try:
        started.wait_ready()
        wait_until(lambda: started.values("up") == [1.0], what="a first scrape")
        yield started
    finally:
        started.stop()


def orders_keep_coming(system: System, sku: str, until: Any) -> None:
    """A little load: confirmed, rejected and cancelled orders, some sent twice, until a condition holds."""

    def place_some() -> bool:
        first = system.place((sku, 1), key="sent-twice")
        system.place((sku, 1), key="sent-twice")
        system.place((sku, 2_000), key="sent-twice")
        others = [system.place((sku, 1)), system.place((sku, 1_000_000)), system.place(("no such SKU", 1))]
        for each in (first, *others):
            system.end_of(each.body["id"])
        system.send("POST", f"{others[0].body['href']}/cancel")
        return bool(until())

    wait_until(place_some, timeout_s=20, what="data for each expression")


def test_the_page_s_configuration_is_valid(prometheus: Prometheus) -> None:
    done = promtool("check", "config", prometheus.config)

    assert done.returncode == 0, done.stdout


def test_alerts_are_looked_at_as_often_as_their_tests_assume(prometheus: Prometheus) -> None:
    assumed = yaml.safe_load(TESTS_OF_RULES.read_text())["evaluation_interval"]

    assert {f"{group['interval']:g}s" for group in prometheus.ask("rules")["groups"]} == {assumed}


def test_what_the_system_tells_is_as_prometheus_wants_it(system: System) -> None:
    done = promtool("check", "metrics", stdin=system.get("/metrics").body)

    assert (done.returncode, done.stdout) == (0, "")


def test_metrics_that_are_not_as_prometheus_wants_them_are_found() -> None:
    assert promtool("check", "metrics", stdin="# TYPE orders counter\norders 1\n").returncode != 0


def test_every_panel_of_the_dashboard_shows_data_under_load(system: System, prometheus: Prometheus) -> None:
    wanted = {
        (panel["title"], target["legendFormat"]): target["expr"].replace("$__rate_interval", RATE_INTERVAL)
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    }
    empty = dict(wanted)

    def all_have_data() -> bool:
        for name, expression in list(empty.items()):
            numbers = prometheus.values(expression)
            if numbers and not any(map(isnan, numbers)):
                del empty[name]
        return not empty

    orders_keep_coming(system, a_sku(stock=1000), all_have_data)

    assert empty == {}
    assert prometheus.values("max(reserva_units_sold_total)") > [0.0]


def test_every_alert_can_be_computed_and_none_fires_on_a_healthy_system(prometheus: Prometheus) -> None:
    def states() -> list[tuple[str, str, str, str]]:
        groups = prometheus.ask("rules")["groups"]
        return [
            (rule["name"], rule["health"], rule["state"], rule.get("lastError", ""))
            for group in groups
            for rule in group["rules"]
        ]

    for rule in alerts(yaml.safe_load(RULES.read_text())):
        # A slow machine may be a little over a bound for a moment: that is what `for` is there for.
        wait_until(
            lambda expr=rule["expr"]: prometheus.values(expr) == [], what=f"silence of {rule['alert']}"
        )
    assert "firing" not in {state for *_, state, _ in states()}
    assert [error for *_, error in states() if error] == []


def test_an_expression_that_cannot_be_computed_is_found(prometheus: Prometheus) -> None:
    with pytest.raises(AssertionError, match="parse error"):
        prometheus.values("max by reserva_workers")
