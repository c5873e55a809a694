"""Guards of connections, and of how requests are read."""

from typing import Final

from tests.mutants.mutant import Mutant

CONNECTION: Final = "shop/web/connection.py"

MUTANTS: Final = (
    Mutant(
        promise="Pages cannot starve orders",
        name="staff have places of their own",
        file="shop/web/staff.py",
        text="return is_of_staff and time.monotonic() < looked_at + PLACES_S",
        instead="return False",
        tests=("tests/test_crowds.py::test_a_crowd_at_the_door_leaves_staff_their_places",),
        is_slow=True,
    ),
    Mutant(
        promise="An order's time begins",
        name="an order's time begins when it arrives",
        file="shop/web/server.py",
        text="return now if self._gap < STALL_S else now - _silent_s(transport)",
        instead="return now",
        tests=("tests/test_crowds.py::test_the_time_of_an_order_begins_when_it_arrives",),
        is_slow=True,
    ),
    Mutant(
        promise="A sender that is slow",
        name="connections have deadlines",
        file="shop/web/connection.py",
        text="self.deadline = self._server.loop.time() + seconds",
        instead="self.deadline = math.inf",
        tests=(
            "tests/test_hostile_http.py::test_who_sends_its_body_too_slowly_hears_408_and_is_cut_off",
            "tests/test_hostile_http.py::test_who_sends_no_head_is_cut_off",
        ),
        is_slow=True,
    ),
    Mutant(
        promise="A sender that is slow",
        name="a body has a limit",
        file=CONNECTION,
        text="        if self._size > self._server.body_bytes_max:\n            request.fault",
        instead="        if False:\n            request.fault",
        tests=("tests/test_hostile_http.py::test_a_body_that_is_too_large_is_refused_everywhere",),
    ),
    Mutant(
        promise="Requests that are not answered",
        name="what connections keep has a limit",
        file=CONNECTION,
        text="if self._server.kept_bytes > KEPT_BYTES_MAX and (",
        instead="if False and (",
        tests=(
            "tests/test_connection_states.py::test_bodies_that_never_end_do_not_fill_the_memory_and_keep_no_small_order_out",
            "tests/test_connection_states.py::test_bodies_whose_turn_has_not_come_count_as_well",
            "tests/test_connection_states.py::test_a_body_counts_until_it_is_answered",
        ),
    ),
    Mutant(
        promise="Requests that are not answered",
        name="what is answered is no longer counted",
        file=CONNECTION,
        text="self._server.kept_bytes -= request.kept_bytes",
        instead="self._server.kept_bytes -= 0",
        tests=("tests/test_connection_states.py::test_a_body_counts_until_it_is_answered",),
    ),
    Mutant(
        promise="A body is not kept",
        name="a body is kept for methods that have one",
        file=CONNECTION,
        text="request.method in METHODS_WITH_BODY:",
        instead="True:",
        tests=(
            "tests/test_connection_states.py::test_a_body_is_not_kept_where_none_is_due",
            "tests/test_hostile_http.py::test_held_requests_with_bodies_that_nobody_reads_take_no_memory",
        ),
        is_slow=True,
    ),
    Mutant(
        promise="A wait ends with its connection",
        name="who leaves ends its wait",
        file=CONNECTION,
        text="        if self._asked is not None:\n            self._asked.leave()\n",
        instead="",
        tests=("tests/test_abandoned.py::test_a_wait_ends_with_its_connection",),
    ),
    Mutant(
        promise="A wait ends with its connection",
        name="who leaves ends no order",
        file=CONNECTION,
        text="        self._drop_body()\n        self._drop_waiting()\n        if self._asked",
        instead="        self._drop_body()\n        self._drop_waiting()\n"
        "        if self._answering is not None:\n            self._answering.cancel()\n        if self._asked",
        tests=(
            "tests/test_abandoned.py::test_an_order_whose_client_left_is_taken_and_so_are_those_that_came_with_it",
        ),
    ),
    Mutant(
        promise="Who reads no answer",
        name="who reads nothing is cut off",
        file=CONNECTION,
        text="self.reading_deadline = self._server.loop.time() + self._server.head_timeout_s",
        instead="pass",
        tests=(
            "tests/test_connection_states.py::test_who_sends_requests_and_reads_no_answer_is_cut_off_whatever_else_it_sends",
        ),
    ),
    Mutant(
        promise="Who reads no answer",
        name="connections have a limit",
        file="shop/web/server.py",
        text="return len(self.connections) > CONNECTIONS_MAX",
        instead="return False",
        tests=(
            "tests/test_connection_states.py::test_one_connection_too_many_is_refused_and_the_others_are_served",
        ),
    ),
    Mutant(
        promise="Who reads no answer",
        name="a process may open as many files as it takes connections",
        file="shop/web/process.py",
        text="    allow_open_files(OPEN_FILES)\n",
        instead="",
        tests=(
            "tests/test_hostile_http.py::test_a_process_takes_as_many_connections_as_it_is_allowed_to_have",
        ),
        is_slow=True,
    ),
    Mutant(
        promise="It is never in doubt",
        name="a body has no coding but chunks",
        file=CONNECTION,
        text='if b"transfer-encoding" in self._headers and not self._is_plainly_framed():',
        instead="if False:",
        tests=(
            "tests/test_http_inputs.py::test_each_row_is_taken_for_the_requests_that_it_has_however_it_is_cut",
        ),
    ),
    Mutant(
        promise="It is never in doubt",
        name="answers go out in the order of their requests",
        file=CONNECTION,
        text="self._begin(self._waiting.popleft())",
        instead="self._begin(self._waiting.pop())",
        tests=(
            "tests/test_connections.py::test_requests_that_are_sent_at_once_are_answered_each_in_its_turn",
        ),
    ),
    Mutant(
        promise="It is never in doubt",
        name="an answer waits for those before it",
        file=CONNECTION,
        text="if self._answering is None and not self._is_full:",
        instead="if not self._is_full:",
        tests=("tests/test_connections.py::test_a_slow_answer_does_not_let_a_quick_one_overtake_it",),
    ),
    Mutant(
        promise="Every refusal is a problem",
        name="refusals of the connection go through the application",
        file=CONNECTION,
        text="        self._receive(request)\n\n    def _end(",
        instead='        self._transport.write(b"HTTP/1.1 400 Bad Request\\r\\nconnection: close\\r\\n\\r\\n")\n'
        "        self._transport.close()\n\n    def _end(",
        tests=(
            "tests/test_hostile_http.py::test_every_refusal_is_a_problem_with_a_request_id",
            "tests/test_abandoned.py::test_a_client_that_finds_no_connection_is_told_when_to_come_again",
        ),
    ),
    Mutant(
        promise="What a client sends is read",
        name="each character has one place in a pattern",
        file="shop/web/parsing.py",
        text='rf"[ \\t]*application/json[ \\t]*((?:{_PARAMETER})*)", re.IGNORECASE',
        instead='r"application/json((?:[ \\t]*;[ \\t]*(?:[a-z]+=[a-z]+)?)*)[ \\t]*"',
        tests=(
            "tests/test_linear_time.py::test_all_that_reads_a_client_s_text_takes_a_time_in_proportion_to_its_length",
            "tests/test_hostile_http.py::test_an_order_is_accepted_at_once_while_a_header_of_full_length_is_read",
        ),
        is_slow=True,
    ),
    Mutant(
        promise="What a client sends is read",
        name="cookies have no escapes",
        file="shop/web/http.py",
        text='return cookies.replace("\\\\", "")',
        instead="return cookies",
        tests=(
            "tests/test_hostile_http.py::test_an_order_is_accepted_at_once_while_cookies_of_full_length_are_read",
        ),
        is_slow=True,
    ),
    Mutant(
        promise="What a client sends is read",
        name="patterns have names, and are measured",
        file="shop/web/access.py",
        text='"""The key in an Authorization header (RFC 6750, 2.1), \'\' where there is none."""\n',
        instead='import re\n    re.match("(a*)*b", header)\n',
        tests=("tests/test_linear_time.py::test_every_pattern_is_compiled_under_a_name_and_measured",),
    ),
    Mutant(
        promise="What a client sends is read",
        name="headers that are asked for are measured",
        file="shop/web/access.py",
        text='request.header(b"authorization")',
        instead='(request.header(b"authorization") or request.header(b"x-api-key"))',
        tests=("tests/test_linear_time.py::test_every_header_that_is_asked_for_is_measured",),
    ),
    Mutant(
        promise="A body that is no order",
        name="values are counted before one is read",
        file="shop/web/json_body.py",
        text="    if not holds_more(body, most):\n        return\n",
        instead="    return\n",
        tests=(
            "tests/test_parsing.py::test_a_body_that_holds_far_too_much_has_one_fault_and_is_not_looked_into",
        ),
    ),
    Mutant(
        promise="A body that is no order",
        name="faults that are looked for have a limit",
        file="shop/web/parsing.py",
        text="FAULTS_MAX: Final = 100",
        instead="FAULTS_MAX: Final = 1_000_000",
        tests=("tests/test_parsing.py::test_a_body_with_more_faults_than_are_listed_says_so",),
    ),
    Mutant(
        promise="A body that is no order",
        name="of too many lines none is looked into",
        file="shop/web/faults.py",
        text='items, not {len(value)}")\n        return\n',
        instead='items, not {len(value)}")\n',
        tests=("tests/test_parsing.py::test_of_too_many_lines_none_is_looked_into",),
    ),
    Mutant(
        promise="A client whose requests are refused",
        name="refused requests are counted",
        file="shop/web/refusals.py",
        text="self._full_at[client] = max(now, self._full_at.get(client, now)) + weight / self._per_second",
        instead="pass",
        tests=(
            "tests/test_hostile_http.py::test_a_client_whose_requests_are_refused_again_and_again_has_to_wait_and_others_do_not",
        ),
        is_slow=True,
    ),
    Mutant(
        promise="Nothing is remembered",
        name="a long address is not remembered",
        file="shop/routes.py",
        text="if len(path) <= _REMEMBERED_LENGTH else",
        instead="if True else",
        tests=("tests/test_linear_time.py::test_a_long_address_and_an_unknown_method_are_not_remembered",),
    ),
    Mutant(
        promise="Nothing is remembered",
        name="a cache by what a client sends has a bound",
        file="shop/web/access.py",
        text="def bearer_key(header: str) -> str:",
        instead="from functools import cache\n\n\n@cache\ndef bearer_key(header: str) -> str:",
        tests=(
            "tests/test_linear_time.py::test_nothing_is_remembered_by_what_a_client_sends_without_a_bound",
        ),
    ),
    Mutant(
        promise="Nothing is remembered",
        name="what is no session is not looked up",
        file="shop/web/staff.py",
        text='return session if _SESSION.fullmatch(session) else ""',
        instead="return session",
        tests=(
            "tests/test_linear_time.py::test_a_session_that_is_longer_than_any_is_neither_looked_up_nor_remembered",
        ),
    ),
    Mutant(
        promise="Who waits is answered",
        name="a process that stops releases who waits",
        file="shop/web/process.py",
        text="    results.settlements.release()  # whoever waits for a result is answered\n",
        instead="",
        tests=("tests/test_stopping.py::test_a_web_process_that_stops_answers_whoever_waits_for_a_result",),
        is_slow=True,
    ),
)
