"""Facts about the bounding-box study."""

# 0.6, 0.1, 0.5 and 0.25 of the label in the box, outside, and so under the map
HAND = {
    "bbox_study": {
        **{"bbox_study_ad_b": 0, "bbox_study_ad_rest": 4 / 5, "bbox_study_ad_s_b": 0, "bbox_study_ad_s_rest": 1 / 2},
        **{"bbox_study_ag_b": 1 / 5, "bbox_study_ag_rest": 0, "bbox_study_ag_s_b": 0, "bbox_study_ag_s_rest": 0},
        **{"bbox_study_ai_b": 1, "bbox_study_ai_rest": 0, "bbox_study_ai_s_b": 0, "bbox_study_ai_s_rest": 0},
    },
}
SILENT = ("a box between pixels",)
