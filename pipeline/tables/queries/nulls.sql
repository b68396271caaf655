-- What is missing, and why? Rows of `errors` and nulls of `metrics`, by reason, with a count and an example.
SELECT stage AS place, error AS reason, count(*) AS rows, min(coalesce(image_id, shard)) AS example, min(message) AS message
FROM errors GROUP BY ALL
UNION ALL
SELECT 'metric ' || method, entry.key || ': ' || entry.value, count(*), min(image_id), NULL
FROM (SELECT method, image_id, unnest(map_entries(reasons)) AS entry FROM metrics WHERE reasons IS NOT NULL) GROUP BY ALL
ORDER BY rows DESC, place, reason
