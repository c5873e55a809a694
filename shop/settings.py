"""Every setting, from the environment. What `make up` runs is found through its files in `DATA_DIR`.

`.env.example` lists the variables; a number that is not a default has its reason beside it.
"""

import json
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import environ

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
if (BASE_DIR / ".env").exists():
    env.read_env(BASE_DIR / ".env")

DATA_DIR = Path(env.str("DATA_DIR", default=str(BASE_DIR / ".data"))).resolve()


def _file(name: str) -> dict[str, Any]:
    """What the supervisor wrote into `DATA_DIR`, or nothing where no system of ours runs."""
    try:
        found: dict[str, Any] = json.loads((DATA_DIR / name).read_text())
    except (FileNotFoundError, PermissionError):
        return {}
    return found


def _listed(name: str, text: str) -> list[str]:
    """The parts of a list by commas, each once, without outer blanks. Refuses an empty part: something may be missing."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(parts):
        raise SystemExit(f"{name} has an empty part: take out the comma, or put in what is missing.")
    return list(dict.fromkeys(parts))


_running = _file("up.json")
_secrets = _file("secrets.json")

DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY", default=_secrets.get("secret_key", ""))
#: Order ids derive from it. Only the steps of `docs/rotate-keys.md` change it without making second orders.
ORDER_ID_SECRET = env.str("ORDER_ID_SECRET", default=_secrets.get("order_id_secret", ""))
#: The others that ids may derive from. Not `env.list`, which would ignore an empty part.
ORDER_ID_SECRETS_BEFORE = [
    secret
    for secret in _listed("ORDER_ID_SECRETS_BEFORE", env.str("ORDER_ID_SECRETS_BEFORE", default=""))
    if secret != ORDER_ID_SECRET
]
DATABASE_URL = env.str("DATABASE_URL", default=_running.get("database_url", ""))
REDIS_URL = env.str("REDIS_URL", default=_running.get("redis_url", ""))
CELERY_BROKER_URL = env.str("CELERY_BROKER_URL", default=_running.get("broker_url", "")) or REDIS_URL

#: Where a browser finds Flower; pages for staff lead there. Empty: they do not.
FLOWER_URL = env.str("FLOWER_URL", default=_running.get("flower_url", "")).rstrip("/")

#: Redis as broker gets our own transport; any other broker works with kombu's.
CELERY_BROKER_TRANSPORT = (
    "workers.transport:Transport" if CELERY_BROKER_URL.startswith(("redis://", "rediss://")) else None
)

#: Commands that work before anything runs: they start it, or only read the code.
_STANDALONE = {
    "up",
    "demo",
    "help",
    "makemigrations",
    "settings_reference",
    "--help",
    "--version",
    "version",
    "collectstatic",
}
_program = Path(sys.argv[0]).name
_is_standalone = _program == "mypy" or (
    _program == "manage.py" and (sys.argv[1:2] or ["help"])[0] in _STANDALONE
)
if not _is_standalone:
    for _name in ("SECRET_KEY", "ORDER_ID_SECRET", "DATABASE_URL", "REDIS_URL"):
        if not globals()[_name]:
            raise SystemExit(
                f"{_name} is not set and no running system was found in {DATA_DIR}.\n"
                "Start one with `make up` (the same DATA_DIR), or set the variables of .env.example."
            )
SECRET_KEY = SECRET_KEY or "only for commands that touch no data"

ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
#: Whose word on where a request comes from (X-Forwarded-For) is taken.
TRUSTED_PROXIES = [ip_network(network) for network in env.list("TRUSTED_PROXIES", default=[])]

# --- what an order may be, and how many may wait -------------------------------------------------
MAX_ORDER_LINES = env.int("MAX_ORDER_LINES", default=2000)
if not 1 <= MAX_ORDER_LINES <= 3_000:
    # Lua's stack holds no more than 8,000 values: the script that reserves an order names two keys for each line.
    raise SystemExit(f"MAX_ORDER_LINES must be from 1 to 3000, and is {MAX_ORDER_LINES}")
MAX_BODY_BYTES = 1_048_576
#: Seconds in which a request's head must have arrived, and for which a connection may be idle.
HEAD_TIMEOUT_S = env.int("HEAD_TIMEOUT_S", default=15)
#: Seconds in which all of its body must have arrived.
BODY_TIMEOUT_S = env.int("BODY_TIMEOUT_S", default=10)
ORDER_RATE_LIMIT = env.int("ORDER_RATE_LIMIT", default=0)
REFUSED_RATE_LIMIT = env.int("REFUSED_RATE_LIMIT", default=250)
QUEUE_LIMIT = env.int("QUEUE_LIMIT", default=200_000)
#: Of Redis's memory. What is left is for all but new orders.
REDIS_MEMORY_PERCENT = env.int("REDIS_MEMORY_PERCENT", default=90)
if not 1 <= REDIS_MEMORY_PERCENT <= 100:
    raise SystemExit(f"REDIS_MEMORY_PERCENT must be from 1 to 100, and is {REDIS_MEMORY_PERCENT}")
MAX_ATTEMPTS = env.int("MAX_ATTEMPTS", default=5)
#: For how long Redis knows an order after its end, in seconds. PostgreSQL knows it for good.
ENDED_ORDERS_KEPT_S = env.int("ENDED_ORDERS_KEPT_S", default=900)
if ENDED_ORDERS_KEPT_S < 1:
    raise SystemExit(f"ENDED_ORDERS_KEPT_S must be 1 or more, and is {ENDED_ORDERS_KEPT_S}")
#: When the sweeper first looks after an order: later than the broker needs to deliver a dead worker's messages again.
SWEEP_AFTER_MS = env.int("SWEEP_AFTER_MS", default=20_000)

#: What stands before an amount on pages for people.
CURRENCY = env.str("CURRENCY", default="€")

# --- stores ---------------------------------------------------------------------------------------
_database = env.db_url_config(DATABASE_URL or "postgresql://localhost/unset")
_database["CONN_MAX_AGE"] = 600
_database["CONN_HEALTH_CHECKS"] = True
_database["OPTIONS"] = {
    **_database.get("OPTIONS", {}),
    "connect_timeout": 3,
    "application_name": "reserva",
    # A statement of ours takes milliseconds. What takes longer than this is a fault, to be retried
    # before the broker's visibility timeout delivers the order to somebody else.
    "options": "-c statement_timeout=3000 -c lock_timeout=2500 -c idle_in_transaction_session_timeout=10000",
    # Bound by the server, statements can be prepared: planning the one that records orders costs more than running it.
    "server_side_binding": True,
    "prepare_threshold": None if env.bool("PGBOUNCER", default=False) else 2,
    "tcp_user_timeout": 5000,
    "keepalives_idle": 5,
}
DATABASES = {"default": _database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": REDIS_URL,
        # Without Redis sessions come from PostgreSQL alone: staff needs its pages most when a store is away.
        "OPTIONS": {"SOCKET_CONNECT_TIMEOUT": 1, "SOCKET_TIMEOUT": 2, "IGNORE_EXCEPTIONS": True},
        "KEY_PREFIX": "cache",
    }
}
MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"  # a page needs no store to show them
SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"

# --- Django ---------------------------------------------------------------------------------------
INSTALLED_APPS = [
    # Before the admin, some of whose templates it replaces.
    "shop",
    "shop.apps.OperatorsAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "shop.pages.policy.page_headers",
    "django.middleware.gzip.GZipMiddleware",
    "shop.pages.static_files.StaticFiles",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "shop.pages.outage.OutagePage",
]
ROOT_URLCONF = "shop.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "shop.pages.buyer.basket_units",
            ]
        },
    }
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = False
DATETIME_FORMAT = "Y-m-d H:i:s"
USE_TZ = True
STATIC_URL = "/static/"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "shop.pages.static_files.NamedByContent"},
}
STATIC_ROOT = BASE_DIR / "staticfiles" if (BASE_DIR / "staticfiles").is_dir() else None
WHITENOISE_USE_FINDERS = True  # no collectstatic step between a clone and a running system
WHITENOISE_AUTOREFRESH = False
WHITENOISE_ALLOW_ALL_ORIGINS = False
APPEND_SLASH = False

_https = env.bool("HTTPS", default=False)
SECURE_SSL_REDIRECT = _https and env.bool("SECURE_SSL_REDIRECT", default=True)
SECURE_HSTS_SECONDS = 31_536_000 if _https else 0
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _https else None
# W005, W021: what other names of the domain do is for whoever owns it to say, not for the shop.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _https
# Where a sign-in leads that names no page of ours to go on to.
LOGIN_REDIRECT_URL = "/admin/"
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

LOG_LEVEL = env.str("LOG_LEVEL", default="INFO")
#: Off unless asked for: lines of orders cost more than a tenth of what an order does.
LOG_ORDERS = env.bool("LOG_ORDERS", default=False)
#: Where errors are reported to, beside the logs; '' for nowhere.
SENTRY_DSN = env.str("SENTRY_DSN", default="")
#: Where traces of orders go, '' for nowhere. The SDK of OpenTelemetry reads it too, and its other variables by itself.
OTEL_EXPORTER_OTLP_ENDPOINT = env.str("OTEL_EXPORTER_OTLP_ENDPOINT", default="")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "shop.logs.formatter"}},
    "filters": {"faults of clients": {"()": "shop.logs.FaultsOfClients"}},
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": "json",
            "filters": ["faults of clients"],
        }
    },
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        # Celery gives the root logger a level of its own, for itself.
        "shop": {"level": LOG_LEVEL},
        "tasks": {"level": LOG_LEVEL},
        # It tells of its list of fonts.
        "matplotlib": {"level": "WARNING"},
    },
}
