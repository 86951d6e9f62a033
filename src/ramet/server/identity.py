"""Who asks: keys, tenants, and the salt that keeps tenants' cached prefixes apart.

Knows headers and digests; refuses to know requests.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Identity", "Keys"]


_KEPT_SALTS = 10_000  # whose salts are remembered, for the live page
_ADMIN = "(admin)"  # the tenant of requests with the admin key


@dataclass(frozen=True, slots=True)
class Identity:
    """`tenant` is None where the server has no keys: then everybody shares everything. `is_admin`: sees
    and does what concerns all tenants."""

    tenant: str | None = None
    is_admin: bool = False


class Keys:
    """Keys by tenant. A given key is compared with every one of them, each in constant time: how long it
    takes says nothing about which one it is like. Without an admin key whoever may ask is an admin, unless
    there are several tenants: then nobody is."""

    def __init__(self, api_keys: Mapping[str, str], admin_key: str | None = None) -> None:
        self._tenants = [(_digest(key), tenant) for key, tenant in api_keys.items()]
        self._admin = None if admin_key is None else _digest(admin_key)
        self._all_admins = admin_key is None and len(set(api_keys.values())) < 2
        self._tenant_by_salt: dict[str, str | None] = {}
        self._salting = secrets.token_bytes(32)  # salts cannot be guessed, and change with the boot

    @property
    def needed(self) -> bool:
        return bool(self._tenants)

    def identify(self, headers: Mapping[str, str]) -> Identity | None:
        """By `Authorization: Bearer KEY` or `x-api-key: KEY`; None for a wrong or missing key."""
        given = _digest(_given_key(headers))
        found = None
        for digest, tenant in self._tenants:
            if hmac.compare_digest(given, digest):
                found = tenant
        is_admin = self._admin is not None and hmac.compare_digest(given, self._admin)
        if is_admin:
            return Identity(found or _ADMIN, True)
        if found is not None or not self._tenants:
            return Identity(found, self._all_admins)
        return None

    def salt(self, identity: Identity, cache_salt: str = "") -> str:
        """Of an identity's requests; `cache_salt` is the client's own part, which narrows it."""
        if identity.tenant is None and not cache_salt:
            return ""
        tenant = "" if identity.tenant is None else f"tenant {identity.tenant}"
        text = f"{len(tenant)} {tenant}{cache_salt}".encode("utf-8", "surrogatepass")
        salt = hashlib.blake2b(text, key=self._salting, digest_size=16).hexdigest()
        if len(self._tenant_by_salt) >= _KEPT_SALTS:
            self._tenant_by_salt.clear()  # names on a page are missing for a while
        self._tenant_by_salt[salt] = identity.tenant
        return salt

    def tenant_of(self, salt: str) -> str | None:
        """Whose a salt is; None where that is nobody's, or not known any more."""
        return self._tenant_by_salt.get(salt)


def _given_key(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return headers.get("x-api-key", "")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
