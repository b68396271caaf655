-- What did `finer` change against the plain target? The paired difference of each metric with its interval at 95 %, dearest gains first; beside it both
-- means with theirs, and what `random` and `fake_cam` have.
-- $target = finer: the target that is compared with `label`
-- $metric = %: the metrics, as a pattern of LIKE
SELECT s.method, s.metric, round(s.diff_label, 3) AS difference, round(s.diff_label_low, 3) AS low, round(s.diff_label_high, 3) AS high,
    CASE WHEN s.diff_label_low IS NULL OR s.diff_label_low <= 0 AND s.diff_label_high >= 0 THEN 'cannot be told'
        WHEN s.better IS NULL THEN 'changed' WHEN (s.diff_label > 0) = (s.better = 'higher') THEN 'better' ELSE 'worse' END AS verdict,
    round(coalesce(plain.mean, s.mean - s.diff_label), 3) AS label, round(plain.ci_low, 3) AS label_low, round(plain.ci_high, 3) AS label_high,
    round(s.mean, 3) AS finer, round(s.ci_low, 3) AS finer_low, round(s.ci_high, 3) AS finer_high,
    round(s.random, 3) AS random, round(s.fake_cam, 3) AS fake_cam, s.n AS images, s.model
FROM summary s LEFT JOIN summary plain ON plain.target = 'label' AND (plain.model, plain.method, plain.metric, plain.scope)
    = (s.model, s.method, s.metric, s.scope)
WHERE s.target = $target AND s.metric LIKE $metric AND s.scope = 'all' AND s.diff_label IS NOT NULL AND NOT isnan(s.diff_label)
ORDER BY s.model, s.metric, if(s.better = 'lower', s.diff_label, -s.diff_label), s.method
