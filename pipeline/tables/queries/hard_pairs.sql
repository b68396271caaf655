-- Which pairs of classes does the network take for each other, and do its maps find the parts in which they differ? `mpxap` needs a target `pairs:FILE`.
-- $limit = 20: how many pairs
WITH wrong AS (
    SELECT model, least(label, predicted) AS a, greatest(label, predicted) AS b, count(*) AS taken_for_each_other,
        avg(predicted_prob - label_prob) AS margin
    FROM predictions WHERE label <> predicted GROUP BY ALL
), parts AS (
    SELECT model, scope, arg_max(method || ' ' || target, mean) AS best_map, max(mean) AS mpxap
    FROM summary WHERE metric = 'mpxap' AND contains(scope, '-') AND method NOT IN ('random', 'fake_cam') GROUP BY ALL
)
SELECT one.class_name AS class, other.class_name AS other, taken_for_each_other,
    round(taken_for_each_other / (one.images + other.images), 3) AS share, round(margin, 3) AS mean_margin,
    best_map, round(mpxap, 3) AS mpxap, wrong.model
FROM wrong JOIN classes one ON a = one.class_id JOIN classes other ON b = other.class_id
    LEFT JOIN parts ON parts.model = wrong.model AND scope = a || '-' || b
ORDER BY share DESC, class, other LIMIT $limit
