"""Figures of a report, one module a theme; this package is the only door to matplotlib."""

from analysis.plots.compatibility import compatibility as compatibility
from analysis.plots.curves import length_by_beta as length_by_beta
from analysis.plots.curves import win_rate_by_beta as win_rate_by_beta
from analysis.plots.curves import win_rate_by_kl as win_rate_by_kl
from analysis.plots.style import save as save
from analysis.plots.token_shifts import end_token_by_beta as end_token_by_beta
from analysis.plots.token_shifts import token_shifts as token_shifts
