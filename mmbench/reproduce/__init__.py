"""The printed tables and figures of papers, run again: `mmbench reproduce hm4sr/table1`.

What an experiment is - data sets, models with the paper's row names, metrics, sweeps - stands in
`mmbench/papers/experiments/*.toml`, what was printed in
`mmbench/papers/printed.csv`. Here is how both become cells
(`plan.py`), a table beside the printed one (`scores.py`, `statistics.py`) and figures (`figures.py`).
"""
