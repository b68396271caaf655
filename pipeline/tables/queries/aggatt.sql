-- Where do maps lie on the images that a metric calls best, middling and worst? Each bin's score with its 95 % interval, the place of the mean
-- map's peak, and an image of it; `tables.overlay` draws the mean map.
-- $metric = energy: the metric that sorts the images
-- $target = label: the target that the maps explain, beside maps of methods without one
SELECT method, target, round(100 * low)::INT || ' to ' || round(100 * high)::INT || ' %' AS bin, n AS images, round(mean, 3) AS score,
    round(ci_low, 3) AS low, round(ci_high, 3) AS high, round(((peak - 1) % width + 0.5) / width, 2) AS peak_x,
    round(((peak - 1) // width + 0.5) / height, 2) AS peak_y, examples[1] AS example, model
FROM (SELECT *, list_position(map, list_max(map)) AS peak FROM aggatt) AS aggatt
WHERE metric = $metric AND target IN ('none', $target) ORDER BY model, method, target, aggatt.bin
