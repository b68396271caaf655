"""A slice of `make fuzz`: damaged tars, images and annotations are read or told."""

import pytest

from tests.fuzz import fuzz


@pytest.mark.parametrize("first", [10**6, 2 * 10**6])
def test_whatever_is_in_a_shard_is_read_or_told(first):
    seen = fuzz(first, 300)
    assert {kind for kind, fate in seen if fate == "read"} == {"image", "annotation", "shard"}
    assert {kind for kind, fate in seen if fate != "read"} == {"image", "annotation", "shard"}
