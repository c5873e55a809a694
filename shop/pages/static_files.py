"""Style sheets and scripts: found where the apps keep them, and named by their content, so that browsers keep them for ever.

There is no build step to forget. All files share one digest, which is a folder of their addresses, so that what one file
says about its neighbours (`@import`, `url(...)`) stays true without rewriting it.
"""

import hashlib
import re
from calendar import timegm
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

from asgiref.sync import markcoroutinefunction
from django.conf import settings
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import StaticFilesStorage
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseNotAllowed
from django.utils.cache import get_conditional_response
from whitenoise.middleware import WhiteNoiseMiddleware

from shop.pages.byte_ranges import asked_part

_DIGEST_CHARACTERS: Final = 12
_ANY_RELEASE: Final = re.compile(rf"{re.escape(settings.STATIC_URL)}[0-9a-f]{{{_DIGEST_CHARACTERS}}}/")


@cache
def release_url() -> str:
    """The folder in which this release's files are served."""
    digest = hashlib.blake2b()
    for finder in finders.get_finders():
        for name, storage in sorted(finder.list(None), key=lambda found: found[0]):
            digest.update(f"{name}\0{_digest(storage.path(name))}\0".encode())
    return f"{settings.STATIC_URL}{digest.hexdigest()[:_DIGEST_CHARACTERS]}/"


@cache
def _digest(path: str) -> str:
    """The name of a file's content."""
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=12).hexdigest()


class NamedByContent(StaticFilesStorage):
    """What `{% static %}` asks for addresses."""

    def url(self, name: str | None) -> str:
        """The address of a file, which changes when any file does."""
        return super().url(name).replace(settings.STATIC_URL, release_url(), 1)


class StaticFiles(WhiteNoiseMiddleware):
    """WhiteNoise inside the event loop, serving each file under its plain name, too, and under other releases' names.

    While a new release replaces an old one, a page of either may ask a process of the other for its files.
    """

    sync_capable = False
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]) -> None:
        super().__init__(get_response)
        markcoroutinefunction(self)

    def add_file_to_dictionary(self, url: str, path: str, stat_cache: Any = None) -> None:
        """Serve a file under its plain name and under this release's."""
        super().add_file_to_dictionary(url, path, stat_cache)
        super().add_file_to_dictionary(url.replace(settings.STATIC_URL, release_url(), 1), path, stat_cache)

    def immutable_file_test(self, path: str, url: str) -> bool:
        """Whether what is served under an address never changes."""
        return url.startswith(release_url())

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer with a file, or let others answer."""
        found = self.files.get(request.path_info) or self.files.get(
            _ANY_RELEASE.sub(settings.STATIC_URL, request.path_info, count=1)
        )
        return await self.get_response(request) if found is None else self.serve(found, request)

    def add_cache_headers(self, headers: Any, path: str, url: str) -> None:
        """Name a file by its content: by time and size alone, two releases may look alike to a client that has a part."""
        super().add_cache_headers(headers, path, url)
        headers["ETag"] = f'"{_digest(path)}"'

    @staticmethod
    def serve(static_file: Any, request: HttpRequest) -> HttpResponse:
        """The answer in one piece: the files are small, and Django would hand out an open one by a thread."""
        if request.method not in {"GET", "HEAD"}:
            return HttpResponseNotAllowed(["GET", "HEAD"])
        path, headers = static_file.get_path_and_headers(
            {}
        )  # as it is: the middleware around this one packs it
        fields = {name: value for name, value in headers if name != "Content-Length"}
        whole = HttpResponse(Path(path).read_bytes(), headers=fields)
        modified = timegm(static_file.last_modified)
        answer = get_conditional_response(request, fields["ETag"], modified, whole)
        assert answer is not None  # it is that of a file, or says why not
        return asked_part(request, answer)
