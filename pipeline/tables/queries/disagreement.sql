-- On which images do the methods disagree most? The root mean square distance between the peaks of two methods' maps, as a share of the side.
-- $target = label: the target whose maps are compared, beside those of methods without one
-- $limit = 20: how many images
SELECT image_id, class_name, count(*) AS methods, round(sqrt(2 * (var_samp(peak_x) + var_samp(peak_y))), 3) AS distance, model
FROM maps JOIN images USING (image_id) LEFT JOIN classes ON label = classes.class_id
WHERE target IN ('none', $target) AND method NOT IN ('random', 'fake_cam') AND map_max > map_min
GROUP BY image_id, model, class_name HAVING count(*) > 1 ORDER BY distance DESC, image_id LIMIT $limit
