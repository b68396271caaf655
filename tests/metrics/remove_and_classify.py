"""Facts about remove-and-classify."""

HAND = {
    "remove_and_classify": {
        "remove_and_classify_10": 1,
        "remove_and_classify_30": 1,
        "remove_and_classify_70": 0,
        "right": [1, 1, 0, 0, 0],
    },
}
NO_REFERENCE = "test_faithfulness compares it with the ratio of the counts of `remove`"
COSTS = {("remove", "remove_and_classify"): 5 + 5 + 1}
SILENT = ("no label",)
TIES = True
