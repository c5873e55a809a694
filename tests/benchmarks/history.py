"""Real orders, as many lines as people really buy, through HTTP."""

from collections import Counter
from pathlib import Path
from typing import Final

from shop import order_history
from tests.benchmarks import rounds
from tests.benchmarks.bench import Bench
from tests.benchmarks.contest import RESERVA

SCENARIO: Final = "real orders"


def run(bench: Bench, file: Path, *, first: int | None, times: int) -> None:
    """The sales of a history (UCI Online Retail's layout), or the first so many, each time as new orders."""
    sales = order_history.read(str(file)).sales[:first]
    orders = [[(line.sku, line.quantity) for line in sale.lines] for sale in sales]
    demand: Counter[str] = Counter()
    for order in orders:
        for sku, quantity in order:
            demand[sku] += quantity
    system = bench.reserva(RESERVA)
    system.put_on_sale({sku: units * times for sku, units in demand.items()})
    for number in range(times):
        found = rounds.run(system, orders, tag=bench.tag(), scenario=SCENARIO)
        bench.keep(found)
        bench.wrong(SCENARIO, found.faults)
        bench.say(f"real orders {number + 1}/{times}: {found.lines_per_s:,.0f} lines/s")
