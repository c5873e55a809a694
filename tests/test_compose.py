"""What `docker compose up` promises, as far as it can be told without Docker: by reading what it reads."""

import copy
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from shop.management.system import WEB_MODULE
from shop.open_telemetry import CLOSE_S
from shop.web.process import ANSWER_WITHIN_S, DRAIN_S, STOP_WITHIN_S
from workers.app import TASK_HARD_LIMIT_S
from workers.embedded import TUNING
from workers.parent import STOP_WITHIN_S as STOP_WITHIN_S_OF_PROGRAMS

ROOT = Path(__file__).parent.parent
COMPOSE = (ROOT / "compose.yaml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
ONE_SHOT = {"secrets", "migrate"}
LASTING = set(SERVICES) - ONE_SHOT
SCALED = {"web", "worker"}

Service = dict[str, Any]


def weaknesses(service: Service) -> list[str]:
    """What is missing of the protection that every container gets."""
    expected = {
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }
    missing = [name for name, value in expected.items() if service.get(name) != value]
    if "max-size" not in service.get("logging", {}).get("options", {}):
        missing.append("bounded logs")
    if user_of(service) in ("", "root", "0", "0:0"):
        missing.append("user")
    return missing


def user_of(service: Service) -> str:
    """Who its processes run as: as the service says, or else its stage of the Dockerfile."""
    if "build" not in service:
        return str(service.get("user", ""))
    target = service["build"]["target"] if isinstance(service["build"], dict) else None
    users = re.findall(r"^USER (.+)$", stage(target), re.MULTILINE)
    return users[-1] if users else ""


def stage(name: str | None) -> str:
    """The text of one stage of the Dockerfile; None: of the last one."""
    stages = re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)[1:]
    return next(text for text in reversed(stages) if name is None or f" AS {name}\n" in text)


def images() -> list[str]:
    """Everything that is fetched from a registry."""
    built = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    return [*built, *(service["image"] for service in SERVICES.values() if "build" not in service)]


def documented() -> dict[str, str]:
    """The variables of `.env.example`, with their example values."""
    lines = re.findall(r"^#?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    return dict(lines)


def read_by_settings() -> set[str]:
    return set(re.findall(r'\benv\.\w+\(\s*"([A-Z_]+)"', (ROOT / "shop" / "settings.py").read_text()))


def read_by_compose() -> set[str]:
    handed_on = {
        name
        for service in SERVICES.values()
        for name, value in service.get("environment", {}).items()
        if value is None
    }
    return handed_on | set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", COMPOSE))


def test_every_container_is_locked_in() -> None:
    found = {name: weaknesses(service) for name, service in SERVICES.items()}

    assert {name: missing for name, missing in found.items() if missing} == {}


@pytest.mark.parametrize("protection", ["read_only", "cap_drop", "security_opt", "logging", "user"])
def test_a_protection_that_is_taken_away_is_missed(protection: str) -> None:
    spoiled = copy.deepcopy(SERVICES["redis"])

    del spoiled[protection]

    assert len(weaknesses(spoiled)) == 1


@pytest.mark.parametrize("name", sorted(LASTING))
def test_what_keeps_running_tells_its_health_and_is_started_again(name: str) -> None:
    service = SERVICES[name]

    assert service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", sorted(ONE_SHOT))
def test_what_runs_once_is_waited_for_until_it_has_succeeded(name: str) -> None:
    conditions = [
        service["depends_on"][name]["condition"]
        for service in SERVICES.values()
        if name in service.get("depends_on", {})
    ]

    assert SERVICES[name]["restart"] == "no"
    assert set(conditions) == {"service_completed_successfully"}


@pytest.mark.parametrize("name", ["web", "worker", "scheduler"])
def test_servers_outlive_whoever_writes_to_them(name: str) -> None:
    # A one-shot service is gone when the system stops, and with it an order that only it would give.
    assert {"postgres", "redis"} <= set(SERVICES[name]["depends_on"])


def test_containers_are_given_the_time_that_their_processes_need_to_stop() -> None:
    grace_s = {name: int(service.get("stop_grace_period", "10s")[:-1]) for name, service in SERVICES.items()}
    (proxy_s,) = re.findall(r"hard-stop-after (\d+)s", (ROOT / "workers" / "haproxy.cfg").read_text())

    assert DRAIN_S + ANSWER_WITHIN_S + CLOSE_S < STOP_WITHIN_S < grace_s["web"]
    assert grace_s["worker"] > TASK_HARD_LIMIT_S + 5
    assert int(proxy_s) < grace_s["proxy"]


def test_what_is_scaled_claims_nothing_that_only_one_can_have() -> None:
    for name in SCALED:
        assert not {"ports", "container_name", "hostname"} & set(SERVICES[name])
    assert "--hostname=worker@%h" in SERVICES["worker"]["command"]


def test_a_worker_is_judged_by_its_own_heartbeat() -> None:
    assert SERVICES["worker"]["healthcheck"]["test"] == ["CMD", "python", "-m", "workers.heartbeat"]


def test_nothing_is_reachable_from_other_machines() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_address_for_everyone_and_that_for_operators_are_two_ports_of_the_proxy() -> None:
    inside = [port.rsplit(":", 1)[1] for port in SERVICES["proxy"]["ports"]]
    bound = re.findall(r"^    bind :(\d+)", (ROOT / "workers" / "haproxy.cfg").read_text(), re.MULTILINE)

    assert inside == bound == re.findall(r"\d+", re.findall("^EXPOSE (.+)", stage("proxy"), re.MULTILINE)[0])
    assert f"/{bound[1]} " in " ".join(SERVICES["proxy"]["healthcheck"]["test"])
    assert f"http://proxy:{bound[1]}" in SERVICES["secrets"]["command"][-1]


def test_the_proxy_is_told_of_those_before_it_and_makes_a_list_of_them(tmp_path: Path) -> None:
    (command,) = re.findall(r"^CMD (.+)$", stage("proxy"), re.MULTILINE)
    (tmp_path / "haproxy").write_text('#!/bin/sh\necho "$TRUSTED_PROXIES" "$@"')
    (tmp_path / "haproxy").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TRUSTED_PROXIES": "10.0.0.5,fd00::/8"}

    told = subprocess.run(json.loads(command), env=env, capture_output=True, text=True, check=True).stdout

    assert "TRUSTED_PROXIES" in SERVICES["proxy"]["environment"]
    assert told == "10.0.0.5 fd00::/8 -db -f /etc/haproxy/haproxy.cfg\n"


def test_the_web_tier_is_served_as_by_make_up() -> None:
    assert SERVICES["web"]["command"][:3] == ["python", "-m", WEB_MODULE]


@pytest.mark.parametrize("part", ["worker", "scheduler", "flower"])
def test_celery_s_programs_have_a_parent_that_replaces_them_here_and_by_the_manual(part: str) -> None:
    parent = f"python -m workers.parent --part={part} -- celery --app=workers.app "
    manual = (ROOT / "docs" / "go-live.md").read_text()

    assert parent in " ".join(" ".join(SERVICES[part]["command"]).split())
    assert parent in manual


def test_containers_outlast_the_time_that_a_parent_gives_its_program() -> None:
    assert int(SERVICES["worker"]["stop_grace_period"][:-1]) > STOP_WITHIN_S_OF_PROGRAMS


def test_postgres_is_told_what_it_is_told_by_make_up_and_by_the_manual() -> None:
    manual = (ROOT / "docs" / "go-live.md").read_text()
    settings = [f"{name}={value}" for name, value in TUNING.items()]

    assert SERVICES["postgres"]["command"] == [
        "postgres",
        *(part for text in settings for part in ("-c", text)),
    ]
    assert [text for text in settings if text.replace("=", " = ") not in manual] == []


def test_the_web_stands_back_for_those_who_bring_orders_to_their_end() -> None:
    weights = {name: service.get("cpu_shares", 1024) for name, service in SERVICES.items()}

    assert weights["web"] * 5 < weights["worker"] == weights["redis"] == weights["postgres"]


def test_redis_throws_nothing_away() -> None:
    command = SERVICES["redis"]["command"]
    settings = dict(zip(command[2::2], command[3::2], strict=True))

    assert settings["--appendonly"] == "yes"
    assert settings["--maxmemory-policy"] == "noeviction"
    assert any(volume.endswith(":/data") for volume in SERVICES["redis"]["volumes"])


def test_images_are_fetched_by_version() -> None:
    assert images()
    assert [image for image in images() if ":" not in image or image.endswith(":latest")] == []


def test_the_image_holds_locked_packages_and_no_way_to_build_others() -> None:
    installs = [
        line for line in DOCKERFILE.replace("\\\n", " ").splitlines() if "pip" in line and "install" in line
    ]

    assert len(installs) == 1
    assert {"--require-hashes", "--only-binary", "requirements.lock"} <= set(installs[0].split())
    assert "apt-get" not in stage(None)


def test_the_builder_gets_what_it_copies_and_nothing_else() -> None:
    allowed = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.MULTILINE)

    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    assert {path.split("/")[0] for path in copied} == set(allowed)


def test_every_variable_that_is_read_is_documented() -> None:
    system = (ROOT / "shop" / "management" / "system.py").read_text()
    read_by_up = set(re.findall(r'(?:_port|_count|_flag|environ\.get)\("([A-Z_]+)"', system))

    assert {"SECRET_KEY", "QUEUE_LIMIT"} <= read_by_settings()
    assert {"WEB_PORT", "FLOWER_BASIC_AUTH"} <= read_by_up
    assert set(documented()) == read_by_settings() | read_by_compose() | read_by_up


def test_every_setting_reaches_the_containers() -> None:
    for name in ("web", "worker", "scheduler", "migrate", "flower"):
        assert read_by_settings() <= set(SERVICES[name]["environment"])


def test_the_example_of_the_environment_changes_nothing_and_gives_no_secret_away() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()

    assert [line for line in lines if line and not line.startswith("#")] == []


def test_defaults_are_told_as_they_are() -> None:
    told = documented()
    defaults = dict(re.findall(r"(?<!\$)\$\{([A-Z_]+):-([^}]*)\}", COMPOSE))
    numbers = re.findall(
        r'env\.int\("([A-Z_]+)", default=([0-9_]+)\)', (ROOT / "shop" / "settings.py").read_text()
    )

    assert {name: told[name] for name in defaults} == defaults
    assert {name: told[name] for name, _ in numbers} == {
        name: text.replace("_", "") for name, text in numbers
    }


def make_secrets(folder: Path) -> None:
    """Run what the service `secrets` runs, on another folder."""
    *_, script = SERVICES["secrets"]["command"]
    script = script.replace("/secrets", str(folder))
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_secrets_are_made_once_and_kept(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    made = contents(tmp_path)

    make_secrets(tmp_path)

    assert contents(tmp_path) == made


def test_an_installation_of_before_gets_the_port_without_limits(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    made = contents(tmp_path)
    (tmp_path / "up.json").write_text(made["up.json"].replace("proxy:8001", "proxy:8000"))

    make_secrets(tmp_path)

    assert contents(tmp_path) == made


def test_secrets_of_two_installations_differ(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        make_secrets(tmp_path / name)
    one, other = (contents(tmp_path / name) for name in ("one", "other"))

    assert all(one[name] != other[name] for name in one)


def test_only_the_two_servers_files_can_be_read_by_others(tmp_path: Path) -> None:
    make_secrets(tmp_path)

    shared = {path.name for path in tmp_path.iterdir() if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)}

    assert shared == {"postgres", "redis.conf"}


def test_settings_find_what_the_first_start_has_made(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    asked = "import json; from shop import settings as s; print(json.dumps([s.SECRET_KEY, s.DATABASE_URL, s.REDIS_URL]))"
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path)}

    told = subprocess.run(
        [sys.executable, "-c", asked], env=environment, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout

    secret_key, database_url, redis_url = json.loads(told)
    assert secret_key == json.loads((tmp_path / "secrets.json").read_text())["secret_key"]
    assert (tmp_path / "postgres").read_text() in database_url
    assert (tmp_path / "redis.conf").read_text() == f"requirepass {redis_url.split(':')[2].split('@')[0]}"
