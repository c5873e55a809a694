"""Somebody of the staff, signed in to the admin of a running system over HTTP."""

import http.cookiejar
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass

PASSWORD = "a long enough one"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A page, after all redirects. `path`: where it was found, with its query."""

    status: int
    path: str
    body: str


def a_user(*permissions: str, is_staff: bool = True) -> str:
    """A new user with these of the shop's permissions, without any named: with all there are. Returns the name."""
    from django.contrib.auth.models import Permission, User

    name = f"staff-{uuid.uuid4().hex[:6]}"
    user = User.objects.create_user(name, password=PASSWORD, is_staff=is_staff)
    user.is_superuser = is_staff and not permissions
    user.save()
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return name


class Staff:
    """A browser without eyes: it keeps cookies, follows redirects, and sends forms with their token."""

    def __init__(self, url: str, name: str, password: str = PASSWORD) -> None:
        self.url, self.name = url, name
        self._cookies = http.cookiejar.CookieJar()
        self._browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._cookies))
        self.get("/admin/login/")
        shown = self.post("/admin/login/?next=/admin/", username=name, password=password)
        assert shown.path == "/admin/", shown

    def get(self, path: str) -> Shown:
        """GET, and what it leads to."""
        return self._ask(urllib.request.Request(self.url + path))

    def post(self, path: str, **fields: object) -> Shown:
        """Send a form, and see what that leads to. A field that is a list is sent once for each of its values."""
        sent = {"csrfmiddlewaretoken": self.token, **fields}
        body = urllib.parse.urlencode(sent, doseq=True).encode()
        return self._ask(urllib.request.Request(self.url + path, body, {"Referer": self.url}))

    @property
    def token(self) -> str:
        """What every form of this browser carries."""
        return next((str(cookie.value) for cookie in self._cookies if cookie.name == "csrftoken"), "")

    def _ask(self, request: urllib.request.Request) -> Shown:
        try:
            with self._browser.open(request, timeout=20) as response:
                return self._shown(response.status, response.url, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return self._shown(error.code, error.url or request.full_url, error.read())

    def _shown(self, status: int, url: str, body: bytes) -> Shown:
        return Shown(status=status, path=url.removeprefix(self.url), body=body.decode())
