"""What a sweep's records show: frames, checks, estimates, findings, summary, plots, report, in this direction; never torch or ray.

In a notebook: `study = analysis.load("results/quickstart")`, then study.faults, study.cells, study.prompts, study.curves,
study.references, and study.columns for what each column means.

Every number here is computed from records and from the store's verdicts and answers; nothing is measured again.
"""

from analysis.study import Study as Study
from analysis.study import load as load
