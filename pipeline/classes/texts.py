"""Templates: sentences that a class name or phrase is filled into, at {}, before an open_clip network reads it."""

TEMPLATES = ("a photo of a {}.",)
