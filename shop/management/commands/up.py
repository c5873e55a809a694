"""`make up`: the whole system on one machine."""

from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError

from shop.management.system import System
from workers.embedded import ServerBinariesMissingError
from workers.processes import PartFailedError
from workers.supervisor import AlreadyRunningError, Supervisor


class Command(BaseCommand):
    """Start everything, say where it is, keep it running until Ctrl-C or SIGTERM."""

    help = (
        "Run the whole system on this machine: Redis, PostgreSQL, web, workers, scheduler and Flower, on"
        " loopback addresses only. Ctrl-C or SIGTERM stops all of it. WEB_PORT (8000), FLOWER_PORT (5555) and"
        " DATA_DIR (.data) in the environment move it; DATABASE_URL, REDIS_URL and CELERY_BROKER_URL replace"
        " the embedded servers."
    )
    requires_system_checks = ()

    def handle(self, *_: Any, **__: Any) -> None:
        """Run until asked to stop. Raises CommandError where something can't be started."""
        try:
            self._run(System(settings.DATA_DIR))
        except AlreadyRunningError as error:
            raise CommandError(
                f"{error}. A second copy needs its own DATA_DIR, WEB_PORT, FLOWER_PORT."
            ) from error
        except (PartFailedError, ServerBinariesMissingError) as error:
            raise CommandError(str(error)) from error

    def _run(self, system: System) -> None:
        with Supervisor(system.data_dir, say=self._say, changed=system.write_status) as supervisor:
            try:
                system.start(supervisor)
                self._say(system.welcome())
                supervisor.keep()
            finally:
                system.remove_status()

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()
