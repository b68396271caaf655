"""Identity: the hash of everything that decides a value. Settings that move no more than its last digits are left out."""

import hashlib
import json


def digest(content) -> str:
    """128 bits of sha256 over canonical JSON, in hex."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def seed_of(*parts) -> int:
    """A 63-bit seed from any parts: the same on every machine and in every batch."""
    return int(digest(list(map(str, parts))), 16) >> 65
