"""What the notebooks and the README show: every table, figure and sentence on a page is a function of records.

Two modules for a page, as a rule: `words` says and tabulates, `words_figures` draws. `report` and `figures` hold what
all of them share. This package alone needs the extra `study` (pandas, matplotlib, seaborn); nothing outside it imports
it before a page is asked for, so that a bare GPU machine can train.
"""
