"""Settings of the textbook shop; its addresses come from the benchmark's environment."""

import environ

env = environ.Env()

SECRET_KEY = "no session, no form, nothing signed"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["tests.benchmarks.textbook"]
# No middleware: there are neither sessions nor forms, and each one costs every order.
MIDDLEWARE: list[str] = []
ROOT_URLCONF = "tests.benchmarks.textbook.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {**env.db_url("DATABASE_URL", default="sqlite://:memory:"), "CONN_MAX_AGE": 600}}

REDIS_URL = env.str("REDIS_URL", default="redis://127.0.0.1:6379")
#: The broker has database 0.
RESULTS_DATABASE, KEYS_DATABASE, LOCKS_DATABASE = 1, 2, 3

ORDER_TASK = env.str("ORDER_TASK", default="fulfil_order")

KEEP_CONNECTIONS = env.bool("KEEP_CONNECTIONS", default=False)

CELERY_BROKER_URL = f"{REDIS_URL}/0"
CELERY_RESULT_BACKEND = f"{REDIS_URL}/{RESULTS_DATABASE}"
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_SEND_TASK_EVENTS = True
