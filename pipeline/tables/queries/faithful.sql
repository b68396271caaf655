-- Which method is the most faithful? Each faithfulness metric of the run ranks the methods; the mean of these ranks, best first.
-- `random` is the floor, and `fake_cam` shows which metrics a map without meaning can win.
-- $target = label: the target whose maps are ranked, beside those of methods without one
WITH ranks AS (
    SELECT model, method, target, metric, n, rank() OVER (
        PARTITION BY model, metric ORDER BY if(better = 'higher', -mean, mean)
    ) AS rank
    FROM summary
    WHERE scope = 'all' AND target IN ('none', $target) AND better IS NOT NULL AND mean IS NOT NULL AND NOT isnan(mean)
        AND regexp_full_match(metric, '(ad|ag|ai|adcc|aopc|deletion|insertion|(rd|remove|remove_and_classify)_[0-9]+)')
)
SELECT method, target, round(avg(rank), 2) AS mean_rank, count(*) AS metrics, min(n) AS images,
    string_agg(metric || ' ' || rank, ', ' ORDER BY metric) AS ranks, model
FROM ranks GROUP BY ALL ORDER BY model, mean_rank, method
