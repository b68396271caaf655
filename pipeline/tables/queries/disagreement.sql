-- On which images do the methods disagree most? 1 minus the mean rank correlation of every two methods' maps, and the two that are least alike.
-- $target = label: the target whose maps are compared, beside those of methods without one
-- $limit = 20: how many images
SELECT d.image_id, class_name, round(d.disagreement, 3) AS disagreement, d.methods,
    (SELECT arg_min(pair.a || ', ' || pair.b, pair.spearman) FROM unnest(d.pairs) AS of_image(pair)) AS least_alike, d.model
FROM disagreement d JOIN images USING (image_id) LEFT JOIN classes ON label = classes.class_id
WHERE d.target IN ('none', $target) AND d.disagreement IS NOT NULL ORDER BY d.disagreement DESC, d.image_id LIMIT $limit
