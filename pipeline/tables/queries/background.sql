-- Which classes does a method find in the background? The share of the map outside the object, the largest first, with 95 % intervals; `area` is
-- that of a map without a preference, by boxes.
-- $number = outside: outside the boxes, or outside_mask where the run has the metric mass_accuracy
-- $target = label: the target that the maps explain, beside maps of methods without one
-- $limit = 20: how many classes and methods
SELECT coalesce(class_name, scope) AS class_name, outside.method, round(outside.mean, 3) AS outside, round(outside.ci_low, 3) AS low,
    round(outside.ci_high, 3) AS high, round(area.mean, 3) AS area, outside.n AS images, outside.model
FROM background_summary outside
    LEFT JOIN (FROM background_summary WHERE number = 'area') area USING (model, method, target, scope)
    LEFT JOIN classes ON scope = class_id::VARCHAR
WHERE outside.number = $number AND target IN ('none', $target)
    AND outside.method NOT IN ('random', 'fake_cam') AND outside.mean IS NOT NULL
ORDER BY outside.mean DESC, class_name, outside.method LIMIT $limit
