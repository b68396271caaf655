-- On which images is the network right while its maps lie outside the object? The mean of `energy` (the map's share in the box) over the methods.
-- $target = label: the target whose maps are looked at, beside those of methods without one
-- $limit = 20: how many images
SELECT image_id, metrics.label_name, round(avg(energy), 3) AS energy, min_by(method, energy) AS lowest_method,
    round(min(energy), 3) AS lowest, round(any_value(label_prob), 3) AS label_prob, model
FROM metrics JOIN predictions USING (image_id, model)
WHERE predictions.label = predicted AND target IN ('none', $target) AND method NOT IN ('random', 'fake_cam')
GROUP BY image_id, model, metrics.label_name HAVING avg(energy) IS NOT NULL ORDER BY energy, image_id LIMIT $limit
