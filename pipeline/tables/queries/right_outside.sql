-- On which images is the network right while its maps lie outside the object? The mean of `energy` (the map's share in the box) over the methods, beside
-- that of `random` on the same image: about the box's share of it.
-- $target = label: the target whose maps are looked at, beside those of methods without one
-- $limit = 20: how many images
WITH random AS (SELECT image_id, model, energy AS random FROM metrics WHERE method = 'random' AND target = 'none')
SELECT image_id, metrics.label_name, round(avg(energy), 3) AS energy, min_by(method, energy) AS lowest_method,
    round(min(energy), 3) AS lowest, round(any_value(random), 3) AS random, round(any_value(label_prob), 3) AS label_prob, model
FROM metrics JOIN predictions USING (image_id, model) LEFT JOIN random USING (image_id, model)
WHERE predictions.label = predicted AND target IN ('none', $target) AND method NOT IN ('random', 'fake_cam')
GROUP BY image_id, model, metrics.label_name HAVING avg(energy) IS NOT NULL ORDER BY energy, image_id LIMIT $limit
