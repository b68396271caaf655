-- What did `finer` change against the plain target? The paired difference of each metric with its interval at 95 %, dearest gains first.
-- $target = finer: the target that is compared with `label`
SELECT method, metric, round(mean - diff_label, 3) AS label, round(mean, 3) AS finer, round(diff_label, 3) AS difference,
    round(diff_label_low, 3) AS low, round(diff_label_high, 3) AS high, n AS images,
    CASE WHEN diff_label_low <= 0 AND diff_label_high >= 0 THEN 'cannot be told' WHEN better IS NULL THEN 'changed'
        WHEN (diff_label > 0) = (better = 'higher') THEN 'better' ELSE 'worse' END AS verdict, model
FROM summary WHERE target = $target AND scope = 'all' AND diff_label IS NOT NULL AND NOT isnan(diff_label)
ORDER BY model, metric, if(better = 'lower', diff_label, -diff_label), method
