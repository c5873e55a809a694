"""What clients are told of each kind of problem on a page of its own: the address that its `type` leads to."""

from enum import Enum
from typing import Final, NamedTuple

from shop.web.problems import Kind


class Key(Enum):
    """What became of the idempotency key that was sent."""

    UNUSED = "Unused. It still stands for nothing: send the corrected request with it, or another one."
    TAKEN = "It stands for the request that was sent with it first, and goes on doing so."
    PERHAPS = (
        "Used or not: what you asked for may have happened. Send the same request with the same key: if it has"
        " happened you get its result, and otherwise it happens now. A new key could make it happen twice."
    )
    NONE = "None was read: this kind of request takes no key, or did not come so far."


class Again(Enum):
    """Whether the same request may get another answer."""

    NO = "No. The same request gets the same answer."
    LATER = "Later, perhaps: the same request is refused for as long as things are as they are."
    YES = (
        "Yes. Wait for `Retry-After` where it is given, else 50 ms, twice as long after each try and 2 s at"
        " most, all with some chance in it; and set a limit to it all, such as a minute."
    )


class Explanation(NamedTuple):
    """What happened, what to do about it, what became of the key, and whether to send it again."""

    happened: str
    remedy: str
    key: Key
    again: Again


_ANY_BODY: Final = "Nothing was recorded."

EXPLANATIONS: Final = {
    Kind.MALFORMED_JSON: Explanation(
        f"The body is no JSON text in UTF-8, or is nested too deeply. {_ANY_BODY}",
        "Let a JSON library write the body. The `detail` says at which character reading ended. `NaN` and"
        " `Infinity` are no JSON, and neither is a byte order mark.",
        Key.UNUSED,
        Again.NO,
    ),
    Kind.INVALID_IDEMPOTENCY_KEY: Explanation(
        "There was no `Idempotency-Key`, or two, or one that is empty, longer than 255 characters, or holds what is not"
        " visible ASCII. A comma in a bare key counts as two keys. Nothing was recorded.",
        "Send exactly one: a UUID is always right. Write it down with your own record of the order before you send it.",
        Key.NONE,
        Again.NO,
    ),
    Kind.INVALID_REQUEST: Explanation(
        "A query parameter has a value that it cannot have; the `detail` names it.",
        "Correct it. Take `cursor` from the `next` of a page, as it is, instead of making one.",
        Key.NONE,
        Again.NO,
    ),
    Kind.MALFORMED_REQUEST: Explanation(
        "What came is no HTTP/1.1, or leaves open which host is meant or where the body ends. It was not read on, and"
        " the connection was closed. Nothing was recorded.",
        "Let an HTTP library write the request. The usual causes: a character in the address that is not"
        " percent-encoded, no `Host` or two, a line end inside a header, or a body in another coding than chunks.",
        Key.NONE,
        Again.NO,
    ),
    Kind.INCOMPLETE_BODY: Explanation(
        "The connection ended, or the framing broke, before all of the body was here. Nothing was recorded.",
        "Send the body with a `Content-Length` that is its length in bytes, or in chunks, not both. A proxy in between"
        " that cuts uploads causes it too.",
        Key.UNUSED,
        Again.LATER,
    ),
    Kind.UNAUTHORIZED: Explanation(
        "There was no API key, or one that does not exist or was revoked. Which of them is not told. Nothing was done.",
        "Send `Authorization: Bearer <api key>`. Keys are made with `manage.py create_api_key` and shown once; whoever"
        " lost one makes a new one. A revoked key ends within 5 seconds.",
        Key.UNUSED,
        Again.NO,
    ),
    Kind.FORBIDDEN: Explanation(
        "The API key is good and lacks the scope: `orders` to place, read and cancel orders, `stock` to change stock."
        " Nothing was done.",
        "Use a key that has the scope; a key's scopes never change, so have a new one made.",
        Key.UNUSED,
        Again.NO,
    ),
    Kind.HTTPS_REQUIRED: Explanation(
        "The request came over plain HTTP, and this shop is open over TLS alone. Nothing was done."
        " It is not redirected, because a client that sends its key in clear by mistake should notice.",
        "Use the `https` address. Anyone on the way may have read the API key: revoke it and have a new one made. For the"
        " operator: does the proxy that takes TLS off set `X-Forwarded-Proto: https`?",
        Key.UNUSED,
        Again.NO,
    ),
    Kind.NOT_FOUND: Explanation(
        "There is nothing at this address, or something that belongs to another client: both answers are the same to the"
        " byte, so that nobody can learn of other clients' orders.",
        "Take addresses from `Location` and `href`. Percent-encode SKUs: a slash in one is `%2F`. Are you using the key"
        " of the client that placed the order? An order is never missing once its 202 was sent.",
        Key.UNUSED,
        Again.LATER,
    ),
    Kind.METHOD_NOT_ALLOWED: Explanation(
        "The address exists and has no such method.",
        "Use one of those that the `Allow` header names.",
        Key.NONE,
        Again.NO,
    ),
    Kind.NOT_CANCELLABLE: Explanation(
        "The order was rejected, or failed, before the wish to cancel it came. It holds no units, so there is nothing to"
        " give back.",
        "Leave it as it is, and read its `reason`. Cancelling an order that is cancelled already is no problem: that is"
        " answered with 202.",
        Key.NONE,
        Again.NO,
    ),
    Kind.INSUFFICIENT_STOCK: Explanation(
        "A stock movement would take more units than are free to sell. What is promised to orders cannot be taken, and"
        " nothing was.",
        "Take at most what the `detail` says is free, or cancel orders first. An *order* that asks for too much is no"
        " such problem: it is accepted and then ends as `rejected`, with a `reason`.",
        Key.UNUSED,
        Again.LATER,
    ),
    Kind.REQUEST_TIMEOUT: Explanation(
        "The head or the body was not complete after some seconds (`HEAD_TIMEOUT_S`, `BODY_TIMEOUT_S`). Nothing was"
        " recorded.",
        "Send the same request again. If it stays, look for what slows the upload down, and send large orders as"
        " several.",
        Key.UNUSED,
        Again.YES,
    ),
    Kind.PAYLOAD_TOO_LARGE: Explanation(
        "The body has more than 1 MiB, or came in more than 10,000 parts. Nothing was recorded.",
        "Send a large order as several, each under a key of its own.",
        Key.UNUSED,
        Again.NO,
    ),
    Kind.ADDRESS_TOO_LONG: Explanation(
        "The address has more than 8,192 bytes. The longest that this API has are shorter by half. Nothing was recorded.",
        "Check what was put into the address. Take `cursor` from the `next` of a page, as it is.",
        Key.NONE,
        Again.NO,
    ),
    Kind.UNSUPPORTED_MEDIA_TYPE: Explanation(
        "The `Content-Type` is missing, or not `application/json`, or names another charset than UTF-8. Nothing was"
        " recorded.",
        "Send `Content-Type: application/json`. curl sends another one with `-d` unless it is told.",
        Key.UNUSED,
        Again.NO,
    ),
    Kind.INVALID_ORDER: Explanation(
        "The body is JSON and no order: something is missing, unknown, given twice, or out of its range. `errors` names"
        " every bad place by a JSON Pointer (RFC 6901), the first 100 where there are more. Of too many lines none is looked"
        " into. Nothing was recorded.",
        'Correct each place. Quantities are integers from 1; `6.0` is one and `"6"` is not. Whether a SKU exists is not'
        " asked here: an order for an unknown one is accepted, and ends as `rejected`.",
        Key.UNUSED,
        Again.NO,
    ),
    Kind.INVALID_STOCK_MOVEMENT: Explanation(
        "The body is JSON and no stock movement. `errors` names every bad place by a JSON Pointer (RFC 6901). Nothing"
        " was recorded.",
        "Correct each place: `delta` is an integer other than 0, `reason` a text for the audit.",
        Key.UNUSED,
        Again.NO,
    ),
    Kind.IDEMPOTENCY_KEY_REUSED: Explanation(
        "The key came earlier with a request that means something else: other units, another SKU, customer or reference."
        " That one stands as it is, and this one was not done.",
        "Is this a new order? Send it under a new key. Is it the same order, sent again? Then something in it has changed"
        " since: send what was sent first, and you get its present state.",
        Key.TAKEN,
        Again.NO,
    ),
    Kind.RATE_LIMITED: Explanation(
        "This client places more orders per second than the operator allows (`ORDER_RATE_LIMIT`; a burst of one second's"
        " worth is free), or had more requests refused for what is in them (`REFUSED_RATE_LIMIT`); the `detail` says which."
        " Nothing was recorded.",
        "Wait as long as `Retry-After` says, and let fewer requests go at a time; other clients are not concerned. Do not"
        " repeat what was answered with 400, 415 or 422: it is refused each time.",
        Key.UNUSED,
        Again.YES,
    ),
    Kind.HEAD_TOO_LARGE: Explanation(
        "There are more than 100 header fields, or they have more than 64 KiB. Nothing was recorded.",
        "Send fewer. Cookies of other sites on the same domain, and proxies that add fields, are the usual causes.",
        Key.NONE,
        Again.NO,
    ),
    Kind.INTERNAL_ERROR: Explanation(
        "We made a mistake that nobody foresaw. It is in our logs, under the `X-Request-ID` of the answer.",
        "Send the same request again, with the same key. If it stays, tell the operator the `X-Request-ID`.",
        Key.PERHAPS,
        Again.YES,
    ),
    Kind.QUEUE_FULL: Explanation(
        "More orders are waiting for a worker than the operator allows (`QUEUE_LIMIT`), or the memory that keeps orders is"
        " nearly full (`REDIS_MEMORY_PERCENT`). Nothing was recorded.",
        "Wait as long as `Retry-After` says. Orders that were accepted are worked on meanwhile.",
        Key.UNUSED,
        Again.YES,
    ),
    Kind.INTAKE_PAUSED: Explanation(
        "The operator has paused the intake of new orders (`manage.py pause`). Nothing was recorded. Orders that were placed"
        " before can be read, sent again and cancelled, and are worked on.",
        "Wait as long as `Retry-After` says, again and again: a pause ends when the operator says so.",
        Key.UNUSED,
        Again.YES,
    ),
    Kind.UNAVAILABLE: Explanation(
        "A store that is needed for the answer (Redis, the broker, or PostgreSQL) did not answer in time. You hear of it"
        " within 2 seconds, instead of waiting for it.",
        "Send the same request again, with the same key, after `Retry-After`. Nothing that was accepted is lost.",
        Key.PERHAPS,
        Again.YES,
    ),
}
