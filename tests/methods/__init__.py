"""The facts that tests need about each method, one module a method, named like it. `tests/entries.py` collects them.

Every method
    DEFAULTS   {setting: value}: all its settings as published
    COST       passes of one image for one class, at COUNTED, as published cost models have it (Opti-CAM's, GLAS's and Finer-CAM's tables):
               `50F + 50B + K f + 1b` is F and B through the network, f and b through its head, K channels
Every method of the CAM family
    HAND       the map [2 2] of the case in test_methods, worked out on paper, before the rectifier
    reference  (A, dA [B K h w], numpy float64) -> maps [B h w] after the rectifier: the published formula, term by term. A method that has
               no formula gives the reason instead: NO_FORMULA = "..."
Every method of the masked family
    REFERENCES {the method as written: (Slow of tests/references/masked.py) -> map [H W]}: the formula in double precision, one mask and one
               pass at a time
    PASSES     {the method as written: (trunk, head) passes of one image beyond the batch's own forward}, for any number of targets
Every method whose noise is drawn
    NOISY      the method as written with settings by which its noise shows, and quickly
Where they apply
    NO_SOURCE  what it is, of one that no paper describes; the docstrings of all others name theirs in brackets
    SHORT      the method as written, where its defaults would take minutes; its defaults otherwise
    TINY       the method as written, at next to no cost, for thousands of maps; SHORT otherwise
    COUNTED    the method as written, where its passes are counted with other settings than SHORT
    MORE       (passes, reason): passes of one image beyond COST
    MORE_FINER (passes, reason): passes beyond these where a difference of classes is explained
    AT_MOST    passes of one image, where they depend on the image; COST is then the least
    PACKAGE    (class of the grad-cam package, the method as written with its settings), for the CAM family
"""
