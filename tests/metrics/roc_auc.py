"""Facts about the area under the ROC curve."""

# Ranks in the box 16, 15, 14 and 5 (nine zeros share 1 ... 9): (50 - 10) / (4 * 12).
HAND = {"roc_auc": {"roc_auc": 5 / 6}}
SILENT = ("a box between pixels", "a mask without an object", "a mask of what is neither")
