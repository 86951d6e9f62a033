"""Keys, tenants and salts."""

from __future__ import annotations

import ast
import hmac
import inspect
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramet.server import identity
from ramet.server.identity import Identity, Keys

A, B, ADMIN = "key-of-tenant-a", "key-of-tenant-b", "key-of-the-admin"


def bearer(key: str) -> Mapping[str, str]:
    return {"authorization": f"Bearer {key}"}


def two_tenants(admin: str | None = ADMIN) -> Keys:
    return Keys({A: "a", B: "b"}, admin)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {A}"},
        {"authorization": f"bearer {A}"},
        {"authorization": f"Bearer  {A} "},
        {"x-api-key": A},
        {"authorization": "Basic eDp5", "x-api-key": A},
    ],
    ids=["bearer", "small", "spaces", "x-api-key", "beside another scheme"],
)
def test_ways_to_send_a_key(headers: Mapping[str, str]) -> None:
    assert two_tenants().identify(headers) == Identity("a", False)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer(A[:-1]),
        bearer(A + "x"),
        bearer(A.upper()),
        {"authorization": A},
        {"authorization": f"Basic {A}"},
        {"cookie": f"key={A}"},
        {"x-api-key": ""},
        {"authorization": "Bearer wrong", "x-api-key": A},
    ],
    ids=["none", "empty", "short", "long", "capitals", "bare", "basic", "cookie", "empty 2", "two"],
)
def test_what_is_no_key(headers: Mapping[str, str]) -> None:
    assert two_tenants().identify(headers) is None


def test_without_keys_everybody_may_ask_and_is_an_admin_unless_there_is_an_admin_key() -> None:
    assert Keys({}).identify({}) == Identity(None, True)
    assert Keys({}, ADMIN).identify({}) == Identity(None, False)
    assert Keys({}, ADMIN).identify(bearer(ADMIN)) == Identity("(admin)", True)


def test_a_tenant_is_an_admin_only_where_it_is_alone() -> None:
    """Otherwise one tenant could empty the others' cache, and read their texts on the live page."""
    assert Keys({A: "a"}).identify(bearer(A)) == Identity("a", True)
    assert Keys({A: "a", B: "a"}).identify(bearer(B)) == Identity("a", True)
    assert two_tenants(admin=None).identify(bearer(A)) == Identity("a", False)
    assert Keys({A: "a"}, ADMIN).identify(bearer(A)) == Identity("a", False)


def test_the_admin_is_no_tenant() -> None:
    keys = Keys({A: "admin"}, ADMIN)
    tenant, admin = keys.identify(bearer(A)), keys.identify(bearer(ADMIN))
    assert tenant is not None
    assert admin is not None
    assert keys.salt(tenant) != keys.salt(admin)


def test_every_key_is_compared_and_only_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2025-59425: a key that was compared character by character. The first match does not end it, and
    digests of one length are compared, so that not even the key's length tells."""
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return real(left, right)

    monkeypatch.setattr(identity.hmac, "compare_digest", compare)
    for key in (A, B, ADMIN, "", "x" * 10_000):
        compared.clear()
        two_tenants().identify(bearer(key))
        assert compared == [(32, 32)] * 3


def test_no_key_is_compared_in_any_other_way() -> None:
    """CVE-2025-59425, for changes to come: no `==`, `in` or lookup decides about keys."""
    tree = ast.parse(inspect.getsource(Keys.identify).lstrip().replace("\n    ", "\n"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            assert all(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops), ast.unparse(node)
        assert not isinstance(node, ast.Subscript) or "Mapping" in ast.unparse(node)


def test_salts_are_a_tenants_and_a_boots() -> None:
    """CVE-2025-25183 (hashes that anybody could compute) and CVE-2025-46570 (timing of shared prefixes)."""
    one, other = two_tenants(), two_tenants()
    a, b = Identity("a"), Identity("b")
    assert one.salt(a) == one.salt(a)
    assert len({one.salt(a), one.salt(b), one.salt(a, "x"), one.salt(b, "x"), other.salt(a)}) == 5
    assert one.tenant_of(one.salt(b, "x")) == "b"
    assert one.tenant_of("unknown") is None


def test_without_tenants_nothing_is_salted_but_what_a_client_salts() -> None:
    keys = Keys({})
    assert keys.salt(Identity()) == ""
    assert keys.salt(Identity(), "x") != ""


@given(st.text(), st.text(), st.text(), st.text())
def test_no_two_tenants_meet_by_a_salt_of_their_own(a: str, b: str, own: str, other: str) -> None:
    keys = Keys({})
    same = keys.salt(Identity(a), own) == keys.salt(Identity(b), other)
    assert same == ((a, own) == (b, other))


def test_remembered_salts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_KEPT_SALTS", 10)
    keys = two_tenants()
    for i in range(100):
        keys.salt(Identity("a"), str(i))
    assert len(keys._tenant_by_salt) <= 10
    assert keys.tenant_of(keys.salt(Identity("a"), "99")) == "a"
