"""What an order is called, and what it means."""

import hashlib
import uuid

from hypothesis import given
from hypothesis import strategies as st

from shop import intake

_VERSION_AND_VARIANT = (0xF << 76) | (0x3 << 62)


@given(client=st.text(), key=st.text())
def test_an_order_s_id_is_a_keyed_hash_of_client_and_key_as_a_uuid(client: str, key: str) -> None:
    """It must never change: whoever sends an old key again would get a second order."""
    named = f"order\0{client}\0{key}".encode()
    digest = hashlib.blake2b(named, digest_size=16, key=intake._hash_keys()[0]).digest()

    made = intake.derived_id("order", client, key)

    number = int.from_bytes(digest, "big") & ~_VERSION_AND_VARIANT | 0x8 << 76 | 0x2 << 62
    assert made == str(uuid.UUID(int=number))


def test_a_key_means_different_ids_to_different_clients_and_for_different_purposes() -> None:
    ids = {
        intake.derived_id(purpose, client, "key")
        for purpose in ("order", "stock movement")
        for client in ("shop", "another")
    }

    assert len(ids) == 4
