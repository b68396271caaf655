-- How often is the network right? The share of images whose predicted class is their label, over all (no class) and of each class, with its interval at
-- 95 % (Wilson). `chance` is what the same predictions get when dealt out at random (Cohen 1960).
WITH known AS (
    SELECT model, label AS class_id, label_name AS class_name, predicted FROM predictions WHERE label IS NOT NULL AND predicted IS NOT NULL
), guesses AS (
    SELECT model, predicted AS class_id, count(*) / sum(count(*)) OVER (PARTITION BY model) AS share FROM known GROUP BY model, predicted
), counts AS (
    SELECT model, class_id, class_name, count(*) AS images, count(*) FILTER (class_id = predicted) AS hits, avg(coalesce(share, 0)) AS chance
    FROM known LEFT JOIN guesses USING (model, class_id) GROUP BY GROUPING SETS ((model), (model, class_id, class_name))
)
SELECT class_id, class_name, images, round(hits / images, 4) AS accuracy, round(share_interval(hits, images).low, 4) AS low,
    round(share_interval(hits, images).high, 4) AS high, round(chance, 4) AS chance, model
FROM counts ORDER BY model, class_id NULLS FIRST
