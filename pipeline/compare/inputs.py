"""The images that one of two runs has and the other has not, and those that are not the same image any more."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

_COUNTS = """
SELECT count(*) FILTER (b.image_id IS NULL) AS new_images, count(*) FILTER (n.image_id IS NULL) AS gone_images,
    count(*) FILTER (n.image_id IS NOT NULL AND b.image_id IS NOT NULL AND n.label IS DISTINCT FROM b.label) AS relabelled_images,
    count(*) FILTER (b.image_id IS NOT NULL AND n.shard IN (SELECT unnest($changed))) AS images_in_changed_shards,
    count(n.image_id) AS now, count(b.image_id) AS before
FROM now.images n FULL JOIN before.images b USING (image_id)
"""


def changed_shards(now: Mapping, before: Mapping) -> list[str]:
    """The shards that both manifests list, and whose content is not the same."""
    identities = {shard["name"]: shard["identity"] for shard in before["shards"]}
    return [shard["name"] for shard in now["shards"] if identities.get(shard["name"], shard["identity"]) != shard["identity"]]


def compare_inputs(connection: "duckdb.DuckDBPyConnection", now: Mapping, before: Mapping) -> list[dict]:
    """Rows of `drift` about the images of the runs with these manifests: how many are new, gone, relabelled, in a changed shard, or failed now."""
    names = {"changed": changed_shards(now, before)}
    [counts] = connection.sql(_COUNTS, params=names).to_arrow_table().to_pylist()
    counts["failed_images"] = now["counts"]["failed"]
    totals = {"kind": "inputs", "scope": "all", "now": counts.pop("now"), "before": counts.pop("before")}
    return [{**totals, "quantity": quantity, "n": totals["now"], "value": count} for quantity, count in counts.items()]
