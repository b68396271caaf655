-- Which method is the most faithful for each class? The mean rank over the faithfulness metrics of the run, within the class. `above_random` counts the
-- metrics in which the best method is better than `random` with all of its interval at 95 %.
-- $target = label: the target whose maps are ranked, beside those of methods without one
WITH ranks AS (
    SELECT *, rank() OVER (PARTITION BY model, scope, metric ORDER BY if(better = 'higher', -mean, mean)) AS rank,
        if(better = 'higher', diff_random_low > 0, diff_random_high < 0) AS above_random
    FROM summary
    WHERE try_cast(scope AS INT) IS NOT NULL AND target IN ('none', $target) AND method NOT IN ('random', 'fake_cam')
        AND better IS NOT NULL AND mean IS NOT NULL AND NOT isnan(mean)
        AND regexp_full_match(metric, '(ad|ag|ai|adcc|aopc|deletion|insertion|(rd|remove)_[0-9]+)')
), means AS (
    SELECT model, scope::INT AS class_id, method, avg(rank) AS mean_rank, count(*) AS metrics, min(n) AS images,
        count(*) FILTER (above_random) AS above_random
    FROM ranks GROUP BY model, scope, method, target
)
SELECT class_id, class_name, min_by(method, (mean_rank, method)) AS best, round(min(mean_rank), 2) AS mean_rank,
    min_by(above_random, (mean_rank, method)) AS above_random, max_by(method, (mean_rank, method)) AS worst,
    any_value(metrics) AS metrics, min(means.images) AS images, model
FROM means LEFT JOIN classes USING (class_id) GROUP BY model, class_id, class_name ORDER BY model, class_id
