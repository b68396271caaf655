-- Do maps change with the class that is asked for? The mean likeness of the maps of two targets, least alike first, with 95 % intervals. The
-- floor is `random`, noise against noise, so that low alone is no praise.
-- $number = spearman: spearman or ssim
SELECT method, a, b, round(mean, 3) AS likeness, round(ci_low, 3) AS low, round(ci_high, 3) AS high, n AS images, model
FROM class_sensitivity_summary
WHERE number = $number AND scope = 'all' ORDER BY mean NULLS LAST, method, a, b
