"""A run as a picture: orders accepted, faults as marks, and how long recovery took."""

from pathlib import Path

from tests.benchmarks.plots import plt, save
from tests.chaos.report import Data


def draw(data: Data, path: Path) -> Path:
    """Draw the timeline; the file."""
    figure, (rate, recovery) = plt.subplots(
        2, 1, figsize=(14, 7), sharex=True, gridspec_kw={"height_ratios": [3, 2]}
    )
    rate.plot(data["accepted_per_s"], color="tab:blue", linewidth=0.8)
    injected = [one for one in data["injections"] if not one["missed"]]
    for one in injected:
        rate.axvspan(
            one["injected_at"], max(one["healed_at"], one["injected_at"] + 0.1), color="tab:red", alpha=0.15
        )
    rate.set(ylabel="orders accepted per second", ylim=(0, None))
    rate.set_title(f"seed {data['seed']}: {len(injected)} faults (red, from injection to healing)")
    measured = [one for one in injected if one["recovered_s"] is not None]
    recovery.vlines([one["healed_at"] for one in measured], 0, [one["recovered_s"] for one in measured])
    slowest = sorted(measured, key=lambda one: one["recovered_s"])[-8:]
    for one in slowest:
        recovery.annotate(one["fault"], (one["healed_at"], one["recovered_s"]), fontsize="x-small")
    recovery.set(xlabel="seconds", ylabel="seconds to the last end", ylim=(0, None))
    return save(figure, path)
