-- Which pairs of classes does the network take for each other, and do its maps find the parts in which they differ? `mpxap` needs a target `pairs:FILE`;
-- beside the best map's stands that of `random`. The share has its interval at 95 % (Wilson); of a single pair's `mpxap` only sums are kept.
-- $limit = 20: how many pairs
WITH wrong AS (
    SELECT model, least(label, predicted) AS a, greatest(label, predicted) AS b, count(*) AS taken_for_each_other,
        avg(predicted_prob - label_prob) AS margin
    FROM predictions WHERE label <> predicted GROUP BY ALL
), parts AS (
    SELECT model, scope, arg_max(method || ' ' || target, mean) AS best_map, max(mean) AS mpxap, any_value(random) AS random
    FROM summary WHERE metric = 'mpxap' AND contains(scope, '-') AND method NOT IN ('random', 'fake_cam') GROUP BY ALL
), shares AS (
    SELECT wrong.*, one.class_name AS class, other.class_name AS other, one.images + other.images AS images,
        share_interval(taken_for_each_other, one.images + other.images) AS ends
    FROM wrong JOIN classes one ON a = one.class_id JOIN classes other ON b = other.class_id
)
SELECT class, other, taken_for_each_other, round(taken_for_each_other / images, 3) AS share, round(ends.low, 3) AS share_low,
    round(ends.high, 3) AS share_high, round(margin, 3) AS mean_margin, best_map, round(mpxap, 3) AS mpxap, round(random, 3) AS mpxap_random,
    shares.model
FROM shares LEFT JOIN parts ON parts.model = shares.model AND scope = a || '-' || b
ORDER BY share DESC, class, other LIMIT $limit
