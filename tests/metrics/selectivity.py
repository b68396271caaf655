"""Facts about selectivity."""

# 1 / (1 + power) of the label
HAND = {
    "selectivity": {
        **{"selectivity_ad_1": 0, "selectivity_ad_100": 0, "selectivity_ad_300": 1 / 2, "selectivity_ad_1000": 9 / 11},
        **{"selectivity_ag_1": 0.99 / 1.01, "selectivity_ag_50": 1 / 3, "selectivity_ag_100": 0, "selectivity_ag_1000": 0},
        **{"selectivity_ai_1": 1, "selectivity_ai_50": 1, "selectivity_ai_100": 0, "selectivity_ai_150": 0},
    },
}
