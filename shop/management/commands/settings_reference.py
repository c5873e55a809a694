"""`manage.py settings_reference`: the page about settings, made from the code that reads them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

_ROOT: Final = Path(settings.BASE_DIR)
_INTRODUCTION: Final = """\
# Settings

Made by `python manage.py settings_reference >docs/settings.md` from the code that reads them and from `.env.example`,
which says what they mean; a test keeps the three alike. Settings come from the environment. `make up`, `manage.py` and
Compose read a file `.env` too, and a variable of the shell wins over it. A change needs a restart.
"""
#: How `django-environ` reads a variable, in words.
_KINDS: Final = {"int": "whole number", "bool": "`true` or `false`", "list": "list, by commas", "str": "text"}
_UNITS: Final = {"_MS": "milliseconds", "_S": "seconds", "_PORT": "port"}
#: Variables that are read elsewhere than in `shop/settings.py`: how, in which file, and the kind.
_READERS: Final = (
    (r'_port\("(\w+)", (\d+)\)', "shop/management/system.py", "int"),
    (r'_count\("(\w+)", (\d+)\)', "shop/management/system.py", "int"),
    (r'_flag\("(\w+)"(\))', "shop/management/system.py", "bool"),
    (r'environ\.get\("(\w+)"\) or "(\w+)"', "shop/management/system.py", "str"),
    (r'environ\.get\("(\w+)"\) or "(\w+)"', "workers/flower.py", "bool"),
    (r"(?<!\$)\$\{(\w+):-([^}$]*)\}", "compose.yaml", "str"),
    # Read by the SDK of OpenTelemetry.
    (r"\n    (OTEL_\w+):()", "compose.yaml", "str"),
)


class Variable(NamedTuple):
    """A variable as it is read: what kind of value, and its default, None where that is made at the first start."""

    kind: str
    default: str | None


class Command(BaseCommand):
    """The page about settings."""

    help = "Print docs/settings.md: every environment variable with its meaning, kind of value and default."

    def handle(self, *args: Any, **options: Any) -> None:
        """Print it."""
        self.stdout.write(reference((_ROOT / ".env.example").read_text(), read_by_code()), ending="")


def read_by_code() -> dict[str, Variable]:
    """Every variable that the code reads."""
    found: dict[str, Variable] = {}
    for pattern, file, kind in reversed(_READERS):
        for name, default in re.findall(pattern, (_ROOT / file).read_text()):
            found[name] = Variable(kind, "true" if kind == "bool" else default)
    return found | dict(_read_by_settings())


def _read_by_settings() -> Iterator[tuple[str, Variable]]:
    for node in ast.walk(ast.parse((_ROOT / "shop" / "settings.py").read_text())):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="env"), attr=kind),
                args=[ast.Constant(value=str(name))],
                keywords=[ast.keyword(arg="default", value=default)],
            ):
                yield name, Variable(kind, _told(default))


def _told(default: ast.expr) -> str | None:
    """A default in words, None where it is no constant."""
    try:
        value = ast.literal_eval(default)
    except ValueError:
        return None
    if isinstance(value, list):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def reference(example: str, variables: dict[str, Variable]) -> str:
    """The page. Raises `CommandError` where `.env.example` and the code do not name the same variables."""
    told = re.findall(r"^#([A-Z_]+)=(.*)$", example, re.MULTILINE)
    names = {name for name, _ in told}
    if missing := sorted(variables.keys() - names - {"DEMO_API_KEY"}):
        raise CommandError(f".env.example says nothing about {', '.join(missing)}")
    lines = [_INTRODUCTION]
    for title, body in re.findall(r"^# --- (.+?) -+\n(.*?)(?=^# ---|\Z)", example, re.MULTILINE | re.DOTALL):
        lines += [f"## {title[0].upper()}{title[1:]}", "", "| variable | meaning | value | default |"]
        lines += ["| --- | --- | --- | --- |"]
        for comment, name, value in re.findall(r"((?:^# .*\n)+)#([A-Z_]+)=(.*)$", body, re.MULTILINE):
            meaning = " ".join(line.removeprefix("# ") for line in comment.splitlines())
            lines.append(_row(name, value, meaning, variables.get(name)))
        lines.append("")
    return "\n".join(lines)


def _row(name: str, example: str, meaning: str, variable: Variable | None) -> str:
    kind = _KINDS.get(variable.kind if variable else "str", "text")
    unit = next((f", {unit}" for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")
    if variable is None or variable.default is None:
        default = f"that of the system which `make up` or Compose starts; like `{example}`"
    else:
        default = f"`{variable.default}`" if variable.default else f"none; like `{example}`"
    return f"| `{name}` | {meaning} | {kind}{unit} | {default} |"
