"""Dashboard, alert rules and their pages name what the system exposes, and each other."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from shop import keys
from shop.stores import redis_client
from tests.builders import a_sku, wait_until
from tests.running import System

DOCS = Path(__file__).parent.parent / "docs"
DASHBOARD = json.loads((DOCS / "monitoring" / "grafana-dashboard.json").read_text())
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DOCS / "monitoring" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
PAGE = (DOCS / "monitoring.md").read_text()
RUNBOOK = (DOCS / "runbook.md").read_text()
ALERTS = [rule["alert"] for rule in RULES]


def queries() -> list[str]:
    """Every expression of the dashboard and the rules."""
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return panels + [rule["expr"] for rule in RULES]


def named_in(text: str) -> set[str]:
    return set(re.findall(r"\breserva_[a-z_]+", text))


def unknown(query: str, exposed: dict[str, set[str]]) -> list[str]:
    """Metrics of a query that nobody exposes, and labels that they do not have."""
    faults = [name for name in named_in(query) if name not in exposed]
    for name, labels in re.findall(r"(reserva_[a-z_]+)\{([^}]*)\}", query):
        told = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels))
        faults += [f"{name}{{{label}}}" for label in told - exposed.get(name, set())]
    grouped = {label.strip() for found in re.findall(r"by \(([^)]*)\)", query) for label in found.split(",")}
    known = set().union(*(exposed.get(name, set()) for name in named_in(query)))
    return faults + [f"by ({label})" for label in grouped - known]


@pytest.fixture(scope="module")
def exposed(system: System) -> dict[str, set[str]]:
    """Samples that a system exposes that has worked and was compared, with their labels."""
    from shop import reconciliation

    system.end_of(system.place((a_sku(), 1)).body["id"])
    reconciliation.reconcile(redis_client())
    wait_until(lambda: redis_client().exists(keys.SWEEPER_HEARTBEAT), what="a sweep")
    wait_until(lambda: 'ended_total{reason="",status="confirmed"} 1' in text(system), timeout_s=10)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text(system)):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def text(system: System) -> str:
    return str(system.get("/metrics").body)


@pytest.mark.parametrize("query", queries())
def test_a_query_asks_for_what_the_system_exposes(query: str, exposed: dict[str, set[str]]) -> None:
    assert unknown(query, exposed) == []


@pytest.mark.parametrize("query", queries())
def test_a_query_counts_once_what_was_scraped_from_several_processes(query: str) -> None:
    for name in re.finditer(r"\breserva_[a-z_]+", query):
        before = query[: name.start()]
        assert re.search(r"(max|absent)( by \([^)]*\))? ?\((\w+\()?$", before), query


def test_what_is_not_exposed_would_be_noticed(exposed: dict[str, set[str]]) -> None:
    assert unknown("max(reserva_nonsense)", exposed) == ["reserva_nonsense"]
    assert unknown('max(reserva_paused{who="x"})', exposed) == ["reserva_paused{who}"]
    assert unknown("max by (sku) (reserva_paused)", exposed) == ["by (sku)"]


def test_the_page_explains_each_metric_and_no_other(exposed: dict[str, set[str]]) -> None:
    rows = re.findall(r"^\| `(reserva_[a-z_]+)(?:\{([a-z_,]*)\})?` \| (\w+) \|", PAGE, re.MULTILINE)
    parts = r"_(bucket|count|sum)$"
    families = {
        re.sub(parts, "", name) if f"{re.sub(parts, '', name)}_bucket" in exposed else name
        for name in exposed
    }

    assert {name for name, *_ in rows} == families
    for name, labels, kind in rows:
        told = exposed[name] if name in exposed else exposed[f"{name}_bucket"] - {"le"}
        assert set(filter(None, labels.split(","))) == told, name
        assert kind == (
            "histogram" if name not in exposed else "counter" if name.endswith("_total") else "gauge"
        )


def test_each_alert_has_a_heading_in_the_runbook_and_a_row_on_the_page() -> None:
    headings = re.findall(r"^### (Reserva\w+)$", RUNBOOK, re.MULTILINE)
    rows = re.findall(r"^\| \[(Reserva\w+)\]\(runbook\.md#(\w+)\) \| .* \| (\w+) \|$", PAGE, re.MULTILINE)

    assert headings == ALERTS
    assert [(name, severity) for name, _, severity in rows] == [
        (rule["alert"], rule["labels"]["severity"]) for rule in RULES
    ]
    assert all(anchor == name.lower() for name, anchor, _ in rows)


@pytest.mark.parametrize("alert", ALERTS)
def test_the_runbook_says_what_an_alert_means_what_to_look_at_and_what_to_do(alert: str) -> None:
    said = RUNBOOK.split(f"### {alert}\n")[1].split("\n##")[0]

    assert [word for word in ("**Means**", "**Look**", "**Do**") if word in said] == re.findall(
        r"\*\*\w+\*\*", said
    )
    assert len(re.findall(r"\*\*\w+\*\*", said)) == 3


def test_panels_lie_side_by_side_and_have_numbers_of_their_own() -> None:
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
