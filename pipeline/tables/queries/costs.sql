-- What did each method and metric cost? Passes of the network and seconds, whenever they were computed; `look` is the pass that all share.
SELECT payer, images, forwards, backwards, round(forwards / images, 1) AS forwards_per_image, round(backwards / images, 1) AS backwards_per_image,
    round(seconds, 1) AS seconds, round(1000 * seconds / images, 2) AS ms_per_image
FROM costs ORDER BY costs.seconds DESC, payer
