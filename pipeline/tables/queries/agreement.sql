-- Which methods show the same, or which metrics put the methods in the same order? The pairs that agree most come first, with 95 % intervals.
-- $kind = methods: methods, metrics, or metrics_per_image
-- $target = label: the target whose maps are compared, beside those of methods without one
-- $controls = no: yes counts the controls among the methods that metrics put in order
SELECT a, b, round(mean, 3) AS agreement, round(ci_low, 3) AS low, round(ci_high, 3) AS high, n AS images, methods, target, model
FROM agreement
WHERE kind = $kind AND target IN ('none', $target) AND with_controls = ($controls = 'yes') ORDER BY mean DESC NULLS LAST, a, b
