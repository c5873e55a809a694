"""The web tier: `python -m shop.web --port 8000 --workers 2`."""

import argparse


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m shop.web", description="The web tier: HTTP/1.1 on one port, which others may share."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    asked = parser.parse_args()
    from shop.web.process import run_all  # noqa: PLC0415 - help needs no settings

    run_all(asked.host, asked.port, asked.workers)


if __name__ == "__main__":
    main()
