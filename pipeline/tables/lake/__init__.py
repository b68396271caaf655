"""Runs as Delta tables: one table for each name and table of a run, whose address stays while the runs it refers to change.

OUT/lake/NAME/TABLE/_delta_log/                            the versions of the table; each refers to the files of one run
OUT/lake/NAME/TABLE/RUN/[method=METHOD/]part-....parquet   the files of the run RUN, whose run.json lies in OUT/runs/RUN as ever

A folder of a run is its bare id: `run=RUN` would be taken for a column by engines that read names of folders.
"""
