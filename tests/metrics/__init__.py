"""The facts that tests need about each metric, one module a metric, named like it. `tests/entries.py` collects them.

Every metric
    HAND       {the metric as written: {column or count: number}}: worked out on paper for `MAP`, `BOX` and `Toy` of tests/views.py.
               A metric that this case does not suit gives the reason instead: NO_HAND = "..."
Every faithfulness metric
    REFERENCES {the metric as written: (Slow of test_faithfulness) -> a number per column}: the formula in double precision, one image and
               one pass at a time. A metric compared in another way says how: NO_REFERENCE = "..."
Every faithfulness metric with perturbations
    COSTS      {metrics as written, together: rows that an image passes, the batch's own forward among them}
Where they apply
    NO_SOURCE  what it is, of one that no paper describes; the docstrings of all others name theirs in brackets
    ANY        the metric as written with settings by which it has a value for any object
    SILENT     the odd cases of tests/views.py (`ODD`) that leave it without a value, beyond those of all metrics of its kind
    RANGE      (lowest, highest) number of a metric without perturbations that is no fraction
    TIES       True: it takes the map's pixels in their order, so that the share of ties stands beside it
    ANEW       True: it explains changed images or networks anew, so that it is computed only where it is named
"""
