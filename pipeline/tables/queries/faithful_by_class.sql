-- Which method is the most faithful for each class? The mean rank over the faithfulness metrics of the run, within the class.
-- $target = label: the target whose maps are ranked, beside those of methods without one
WITH ranks AS (
    SELECT model, scope, method, target, metric, n, rank() OVER (
        PARTITION BY model, scope, metric ORDER BY if(better = 'higher', -mean, mean)
    ) AS rank
    FROM summary
    WHERE try_cast(scope AS INT) IS NOT NULL AND target IN ('none', $target) AND method NOT IN ('random', 'fake_cam')
        AND better IS NOT NULL AND mean IS NOT NULL AND NOT isnan(mean)
        AND regexp_full_match(metric, '(ad|ag|ai|adcc|aopc|deletion|insertion|(rd|remove)_[0-9]+)')
), means AS (
    SELECT model, scope::INT AS class_id, method, target, avg(rank) AS mean_rank, count(*) AS metrics, min(n) AS images
    FROM ranks GROUP BY ALL
)
SELECT class_id, class_name, min_by(method, (mean_rank, method)) AS best, round(min(mean_rank), 2) AS mean_rank,
    max_by(method, (mean_rank, method)) AS worst, any_value(metrics) AS metrics, min(means.images) AS images, model
FROM means LEFT JOIN classes USING (class_id) GROUP BY model, class_id, class_name ORDER BY model, class_id
