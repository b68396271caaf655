-- Which method is the most faithful? Each faithfulness metric of the run ranks the methods; the mean of these ranks, best first.
-- `random` is the floor, and `fake_cam` shows which metrics a map without meaning can win. `above_random` counts the metrics whose paired difference
-- to `random` is better than 0 with all of its interval at 95 %; `numbers` are the means with their intervals.
-- $target = label: the target whose maps are ranked, beside those of methods without one
WITH ranks AS (
    SELECT *, rank() OVER (PARTITION BY model, metric ORDER BY if(better = 'higher', -mean, mean)) AS rank
    FROM summary
    WHERE scope = 'all' AND target IN ('none', $target) AND better IS NOT NULL AND mean IS NOT NULL AND NOT isnan(mean)
        AND regexp_full_match(metric, '(ad|ag|ai|adcc|aopc|deletion|insertion|(rd|remove|remove_and_classify)_[0-9]+)')
)
SELECT method, target, round(avg(rank), 2) AS mean_rank, count(*) AS metrics,
    count(*) FILTER (if(better = 'higher', diff_random_low > 0, diff_random_high < 0)) AS above_random, min(n) AS images,
    string_agg(metric || ' ' || rank, ', ' ORDER BY metric) AS ranks,
    string_agg(format('{} {:.3f}', metric, mean) || coalesce(format(' [{:.3f}, {:.3f}]', ci_low, ci_high), ''), ', ' ORDER BY metric) AS numbers,
    model
FROM ranks GROUP BY method, target, model ORDER BY model, mean_rank, method
