"""Places for pages: who gets one, who waits for it in which order, and who is refused."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from ipaddress import ip_network
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings

from shop.web.addresses import client_address
from shop.web.crowded import crowded
from shop.web.http import Request
from shop.web.lanes import SUSPECT, Crowded, InLoop, Lane


class Story:
    """A lane with one place, which is taken, and those who wait for it."""

    def __init__(self, *, queue: int = 3, patience_s: float = 30) -> None:
        self.lane = Lane([InLoop()], queue=queue, patience_s=patience_s)
        self.served: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._taken = AsyncExitStack()

    async def __aenter__(self) -> "Story":
        await self._taken.enter_async_context(self.lane.place("somewhere", self.now))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._taken.aclose()

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def come(self, *names: str, behind: int = 0) -> None:
        """Requests arrive; the first letter of a name is its address."""
        for name in names:
            self.tasks[name] = asyncio.create_task(self._ask(name, behind))
            await asyncio.sleep(0)

    async def _ask(self, name: str, behind: int) -> None:
        async with self.lane.place(name[0], self.now, behind=behind):
            self.served.append(name)

    async def ends(self) -> list[str]:
        """Give the place back and wait for all; the names of those that were refused."""
        await self._taken.aclose()
        found = await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        return [name for name, end in zip(self.tasks, found, strict=True) if isinstance(end, Crowded)]


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Let a story happen."""
    asyncio.run(story())


def test_those_who_wait_are_served_in_turn_and_the_first_of_too_many_stay() -> None:
    async def story() -> None:
        async with Story() as crowd:
            await crowd.come("a1", "b1", "c1", "d1")
            assert await crowd.ends() == ["d1"]
            assert crowd.served == ["a1", "b1", "c1"]

    run(story)


def test_of_many_requests_of_one_address_the_last_make_room_for_another_address() -> None:
    async def story() -> None:
        async with Story() as crowd:
            await crowd.come("a1", "a2", "a3", "b1")
            assert await crowd.ends() == ["a3"]
            assert crowd.served == ["a1", "b1", "a2"]

    run(story)


def test_an_address_of_wrong_passwords_stands_behind_all_others() -> None:
    async def story() -> None:
        async with Story() as crowd:
            await crowd.come("a1", "b1", "c1", behind=SUSPECT)
            await crowd.come("d1")
            assert await crowd.ends() == ["c1"]
            assert crowd.served == ["d1", "a1", "b1"]

    run(story)


def test_who_waits_for_too_long_is_refused_and_takes_no_place() -> None:
    async def story() -> None:
        async with Story(patience_s=0) as crowd:
            await crowd.come("a1")
            with pytest.raises(Crowded):
                await crowd.tasks["a1"]
            assert await crowd.ends() == ["a1"]
            async with crowd.lane.place("b", crowd.now):
                pass

    run(story)


def test_a_place_that_comes_to_who_leaves_in_the_same_moment_goes_to_the_next() -> None:
    async def story() -> None:
        async with Story() as crowd:
            await crowd.come("a1", "b1")
            await crowd._taken.aclose()  # a1 has the place, and has not run since
            crowd.tasks["a1"].cancel()
            await crowd.ends()
            assert crowd.served == ["b1"]
            assert len(crowd.lane._free) == 1

    run(story)


def test_a_call_in_the_loop_returns_and_raises() -> None:
    place: Executor = InLoop()

    assert place.submit(len, "four").result() == 4
    with pytest.raises(ZeroDivisionError):
        place.submit(divmod, 1, 0).result()


# --- addresses ------------------------------------------------------------------------------------


def address(peer: str, *forwarded: str, trusted: list[str] | None = None) -> str:
    """What a client that sent this is counted by."""
    with override_settings(TRUSTED_PROXIES=[ip_network(network) for network in trusted or []]):
        return client_address(
            Request(method="GET", path="/", headers={b"x-forwarded-for": list(forwarded)}, peer=(peer, 1))
        )


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "found"),
    [
        ("203.0.113.9", [], [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], ["10.0.0.0/8"], "203.0.113.9"),
        ("10.0.0.5", ["198.51.100.1"], ["10.0.0.0/8"], "198.51.100.1"),
        ("10.0.0.5", ["forged, 198.51.100.1"], ["10.0.0.0/8"], "198.51.100.1"),
        ("10.0.0.5", ["192.0.2.7, 198.51.100.1", "10.0.0.6"], ["10.0.0.0/8"], "198.51.100.1"),
        ("10.0.0.5", [], ["10.0.0.0/8"], "10.0.0.5"),
        ("10.0.0.5", ["garbage"], ["10.0.0.0/8"], "10.0.0.5"),
        ("10.0.0.5", ["," * 30_000], ["10.0.0.0/8"], "10.0.0.5"),
        ("::1", ["198.51.100.1"], ["::1"], "198.51.100.1"),
        ("::ffff:10.0.0.5", ["198.51.100.1"], ["10.0.0.5"], "198.51.100.1"),
        ("2001:db8:1:2:3:4:5:6", [], [], "2001:db8:1:2::"),
        ("", [], [], ""),
    ],
)
def test_a_client_is_counted_by_the_nearest_address_that_is_no_proxy_of_ours(
    peer: str, forwarded: list[str], trusted: list[str], found: str
) -> None:
    assert address(peer, *forwarded, trusted=trusted) == found


def test_nobody_is_a_proxy_unless_it_is_set() -> None:
    assert settings.TRUSTED_PROXIES == []


# --- the answer to those who find no place --------------------------------------------------------


def a_form(body: bytes, kind: str = "application/x-www-form-urlencoded", **headers: str) -> Request:
    """A form that was sent."""
    sent = {b"content-type": [kind]} | {name.encode(): [value] for name, value in headers.items()}
    return Request(method="POST", path="/orders", headers=sent, body=body)


def test_a_form_without_a_place_is_offered_again_as_it_was() -> None:
    answer = crowded(a_form(b"csrfmiddlewaretoken=abc&sku=%22%3E%3Cscript%3E&key=k&password=secret"))
    page = answer.content.decode()

    assert answer.status_code == 503
    assert int(answer["Retry-After"]) >= 1
    assert 'name="csrfmiddlewaretoken" value="abc"' in page
    assert 'name="sku" value="&quot;&gt;&lt;script&gt;"' in page
    assert "secret" not in page


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"sku=" + b"x" * 9_000, ""), (b"&a" * 2_000, ""), (b"{}", "application/json")],
    ids=["long", "many fields", "no form"],
)
def test_what_is_no_form_of_the_shop_is_not_repeated(body: bytes, kind: str) -> None:
    answer = crowded(a_form(body, kind or "application/x-www-form-urlencoded"))

    assert b'type="hidden"' not in answer.content


def test_the_storefront_s_script_is_told_in_its_own_words() -> None:
    answer = crowded(a_form(b"key=k", accept="application/json"))

    assert answer["Content-Type"] == "application/json"
    assert answer.content.startswith(b'{"wait_s": ')
