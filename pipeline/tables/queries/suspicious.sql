-- Which few images of a class does the network judge by something else? Clusters of maps that are at most a share of their class, the most suspicious
-- first: small ones that lie apart from their class, and where other classes have no maps. Needs `--analyses clusters`, and more images of a class than
-- the `neighbours` of its graph (10), by far: those of a small class are one cluster.
-- $share = 0.5: the largest share of its class that a cluster may have
-- $method = %: the method whose maps are looked at, as a pattern of LIKE
-- $limit = 20: how many clusters
SELECT class_id, class_name, method, target, cluster, n AS images, round(share, 3) AS share, round(share_interval(n, class_images).low, 3) AS share_low,
    round(share_interval(n, class_images).high, 3) AS share_high, round(separation, 3) AS separation, round(distance, 3) AS distance,
    round(suspicion, 3) AS suspicion, exemplars[1:3] AS exemplars, model
FROM clusters
WHERE share <= $share::DOUBLE AND suspicion IS NOT NULL AND method LIKE $method AND method NOT IN ('random', 'fake_cam')
ORDER BY clusters.suspicion DESC, class_id, method, cluster LIMIT $limit
