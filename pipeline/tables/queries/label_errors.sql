-- Which labels may be wrong? Images on which the network is sure of another class.
-- $limit = 20: how many images
SELECT image_id, label_name, predicted_name, round(predicted_prob, 3) AS predicted_prob, round(label_prob, 3) AS label_prob, model
FROM predictions WHERE label <> predicted ORDER BY predictions.predicted_prob - predictions.label_prob DESC, image_id LIMIT $limit
