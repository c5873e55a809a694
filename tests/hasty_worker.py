"""The Celery application in haste: what a worker left unacknowledged when it died comes again after 4 s, not after 15."""

from workers.app import app

__all__ = ["app"]

app.conf.broker_transport_options = app.conf.broker_transport_options | {"visibility_timeout": 4}
