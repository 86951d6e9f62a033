"""The prefix cache: which tokens have KV, where, and who holds it. Nothing here needs torch."""

from ramet.cache.audit import AuditError, audit, prefix_hashes
from ramet.cache.lease import Lease
from ramet.cache.repair import RepairReport, repair
from ramet.cache.slots import CacheMisuse, OutOfSlots, SlotPool
from ramet.cache.tree import RadixTree, depth_first_key, path_key

__all__ = [
    "AuditError",
    "CacheMisuse",
    "Lease",
    "OutOfSlots",
    "RadixTree",
    "RepairReport",
    "SlotPool",
    "audit",
    "depth_first_key",
    "path_key",
    "prefix_hashes",
    "repair",
]
