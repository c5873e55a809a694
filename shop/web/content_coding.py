"""Whether an answer may be packed: what a client's Accept-Encoding means (RFC 9110, 12.5.3)."""

import re
from typing import Final

#: Longer lists are not read: what is sent plain suits every client.
_READ_MAX: Final = 256
_WEIGHT: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")  # RFC 9110, 12.4.2
_GZIP: Final = ("gzip", "x-gzip", "*")  # RFC 9110, 8.4.1.3


def accepts_gzip(accepted: str) -> bool:
    """Whether a client takes gzip at least as gladly as a plain answer. `accepted`: its Accept-Encoding, '' for none."""
    if len(accepted) > _READ_MAX:
        return False
    weights = dict(map(_weighted, accepted.lower().split(",")))
    named = [weights[name] for name in _GZIP if name in weights]
    return bool(named) and 0 < named[0] >= weights.get("identity", 0)


def _weighted(element: str) -> tuple[str, float]:
    """A coding and its weight, 0 to 1; what is no weight counts as 0."""
    coding, *parameters = element.split(";")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            weight = value.strip()
            return coding.strip(), float(weight) if _WEIGHT.fullmatch(weight) else 0
    return coding.strip(), 1
