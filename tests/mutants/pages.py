"""Guards of pages, of people, and of what clients are told."""

from typing import Final

from tests.mutants.mutant import Mutant

MUTANTS: Final = (
    Mutant(
        promise="What is being cancelled",
        name="the request to cancel is read before the state",
        file="shop/pages/watching.py",
        text="    is_wished = await is_wish_recorded(str(order_id))\n"
        "    state = await order_of(buyer, str(order_id)) if buyer else None\n",
        instead="    state = await order_of(buyer, str(order_id)) if buyer else None\n"
        "    is_wished = await is_wish_recorded(str(order_id))\n",
        tests=(
            "tests/test_watching.py::test_an_order_that_is_cancelled_between_two_reads_is_not_shown_as_confirmed",
        ),
    ),
    Mutant(
        promise="A buyer's lost answer",
        name="a page of the past orders nothing",
        file="shop/pages/buyer.py",
        text="return tap.number < self.next_tap(tap.sku).number",
        instead="return False",
        tests=("tests/test_lost_answers.py::test_a_page_too_old_to_order_by_leads_to_the_present_one",),
    ),
    Mutant(
        promise="A buyer's lost answer",
        name="the key of a basket stays until its order is answered",
        file="shop/pages/buyer.py",
        text="self.orders = [order_id, *(known",
        instead="self.key, self.first_tap = new_key(), self.first_tap + 1\n        self.orders = [order_id, *(known",
        tests=("tests/test_lost_answers.py::test_whoever_tries_again_after_a_lost_answer_has_one_order",),
    ),
    Mutant(
        promise="What can't be served",
        name="a process takes in a limited number of orders",
        file="shop/web/gate.py",
        text="if self.inside >= self.MOST or now >= deadline:",
        instead="if False:",
        tests=(
            "tests/test_overload.py::test_whoever_finds_no_place_is_refused_long_before_those_who_have_one",
        ),
        is_slow=True,
    ),
    Mutant(
        promise="What can't be served",
        name="few ask whether a full queue still is",
        file="shop/web/gate.py",
        text="if self.inside >= self.FEW and now < self._full_until:",
        instead="if False:",
        tests=("tests/test_overload.py::test_while_the_queue_is_full_only_few_ask_whether_it_still_is",),
    ),
    Mutant(
        promise="Pages cannot starve orders",
        name="pages have places, and few wait for one",
        file="shop/web/lanes.py",
        text="VISITORS: Final = Lane([_in_loop] * 4, queue=64, patience_s=1.5)",
        instead="VISITORS: Final = Lane([_in_loop] * 600, queue=600, patience_s=60.0)",
        tests=(
            "tests/test_crowds.py::test_of_six_hundred_visitors_at_once_some_see_the_shop_and_orders_and_operators_do_not_wait",
        ),
        is_slow=True,
    ),
    Mutant(
        promise="Pages cannot starve orders",
        name="one password is looked at at a time",
        file="shop/web/lanes.py",
        text='Lane(_threads(1, "sign-in"), queue=16, patience_s=6.0)',
        instead='Lane(_threads(16, "sign-in"), queue=1_000, patience_s=60.0)',
        tests=(
            "tests/test_crowds.py::test_two_hundred_wrong_sign_ins_at_once_hold_up_no_order_and_no_operator_elsewhere",
        ),
        is_slow=True,
    ),
    Mutant(
        promise="Guessing passwords",
        name="wrong passwords are counted",
        file="shop/web/sign_in.py",
        text="self._by_name[name, address] = _Failed(times + 1, now)",
        instead="self._by_name[name, address] = _Failed(times, now)",
        tests=(
            "tests/test_crowds.py::test_the_sixth_password_is_not_looked_at",
            "tests/test_crowds.py::test_after_wrong_passwords_a_name_waits_at_one_address_and_at_no_other",
        ),
        is_slow=True,
    ),
    Mutant(
        promise="Guessing passwords",
        name="a name is locked at one address alone",
        file="shop/web/sign_in.py",
        text="failed = self._by_name.get((name, address))",
        instead="failed = next((f for (n, _), f in self._by_name.items() if n == name), None)",
        tests=(
            "tests/test_crowds.py::test_after_wrong_passwords_a_name_waits_at_one_address_and_at_no_other",
        ),
        is_slow=True,
    ),
    Mutant(
        promise="A frozen PostgreSQL",
        name="a PostgreSQL that does not answer is hung up on",
        file="shop/stores.py",
        text="hang_up = asyncio.get_running_loop().call_later(self.PATIENCE_S, _hang_up, opened)",
        instead="hang_up = asyncio.get_running_loop().call_later(3600, _hang_up, opened)",
        tests=(
            "tests/test_web_stores.py::test_a_frozen_postgresql_is_given_up_soon_and_then_left_alone_for_a_while",
        ),
    ),
    Mutant(
        promise="A frozen PostgreSQL",
        name="a PostgreSQL that was given up is left alone for a while",
        file="shop/stores.py",
        text="self._away_until = monotonic() + self.PAUSE_S",
        instead="pass",
        tests=(
            "tests/test_web_stores.py::test_a_frozen_postgresql_is_given_up_soon_and_then_left_alone_for_a_while",
        ),
    ),
    Mutant(
        promise="A frozen PostgreSQL",
        name="a process that was frozen itself takes an answer that is there",
        file="shop/stores.py",
        text="if not await self._is_in_turn() and not await self._is_in_turn():",
        instead="if not await self._is_in_turn():",
        tests=(
            "tests/test_web_stores.py::test_a_web_process_that_was_frozen_takes_postgresql_for_away_no_more_than_before",
        ),
    ),
    Mutant(
        promise="Who waits hears",
        name="who waits looks again when it may have missed something",
        file="shop/results.py",
        text="                    self._subscribed.set()\n                    self._wake_all()\n",
        instead="                    self._subscribed.set()\n",
        tests=(
            "tests/test_web_stores.py::test_whoever_waits_hears_of_what_was_settled_while_nobody_listened",
        ),
    ),
    Mutant(
        promise="Who waits hears",
        name="who waits asks PostgreSQL in between",
        file="shop/results.py",
        text="BOOKS_AFTER_S: Final = 1.0",
        instead="BOOKS_AFTER_S: Final = 100.0",
        tests=(
            "tests/test_web_stores.py::test_whoever_waits_hears_of_what_the_books_have_decided_though_redis_never_does",
        ),
    ),
    Mutant(
        promise="A pause holds",
        name="a paused intake is refused",
        file="shop/lua/accept.lua",
        text="if paused then return {'paused'} end",
        instead="",
        tests=("tests/test_pauses.py::test_a_paused_intake_takes_nothing_new_and_leaves_the_key_unused",),
    ),
)
