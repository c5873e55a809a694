# The image of every process of ours; and, as target `proxy`, that of the one address in front of the web tier.

FROM python:3.11-slim-bookworm AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /venv
COPY requirements.lock .
# Wheels alone: nothing is compiled, so no stage needs a compiler.
RUN python -m pip --python /venv/bin/python install --quiet --require-hashes --only-binary :all: \
    --requirement requirements.lock


FROM debian:bookworm-slim AS proxy
RUN apt-get update --quiet \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends haproxy \
 && rm -rf /var/lib/apt/lists/*
COPY workers/haproxy.cfg /etc/haproxy/haproxy.cfg
LABEL org.opencontainers.image.title="Reserva proxy" \
      org.opencontainers.image.description="One address in front of the web containers of Reserva."
USER 10001:10001
EXPOSE 8000 8001
# Soft stop: requests under way are answered first.
STOPSIGNAL SIGUSR1
# TRUSTED_PROXIES is separated by commas, as everywhere; HAProxy wants blanks.
CMD ["sh", "-c", "export TRUSTED_PROXIES=\"$(echo \"$TRUSTED_PROXIES\" | tr , ' ')\" && exec haproxy -db -f /etc/haproxy/haproxy.cfg"]


FROM python:3.11-slim-bookworm
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Reserva" \
      org.opencontainers.image.description="Order intake that never oversells and never loses an order." \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
# The numbers are fixed, because volumes remember them. /secrets is the mount point of a volume, which takes its owner.
RUN groupadd --gid 10001 reserva \
 && useradd --uid 10001 --gid reserva --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin reserva \
 && install --directory --owner reserva --group reserva --mode 755 /secrets
ENV PATH=/venv/bin:$PATH DATA_DIR=/secrets DJANGO_SETTINGS_MODULE=shop.settings \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY --from=packages /venv /venv
COPY manage.py ./
COPY shop shop
COPY tasks tasks
COPY workers workers
RUN python -m compileall -q shop tasks workers && mkdir staticfiles
USER 10001:10001
CMD ["python", "manage.py", "help"]
