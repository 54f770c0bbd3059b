"""Figures of a report, one module a theme; this package is the only door to matplotlib."""

from analysis.plots.answer_lengths import answer_lengths as answer_lengths
from analysis.plots.best_betas import best_betas as best_betas
from analysis.plots.compatibility import compatibility as compatibility
from analysis.plots.curves import accuracy_by_beta as accuracy_by_beta
from analysis.plots.curves import length_by_beta as length_by_beta
from analysis.plots.curves import win_rate_by_beta as win_rate_by_beta
from analysis.plots.curves import win_rate_by_kl as win_rate_by_kl
from analysis.plots.curves import win_rate_by_length as win_rate_by_length
from analysis.plots.effects import MEASURES as MEASURES
from analysis.plots.effects import gains as gains
from analysis.plots.effects import measure_against_gain as measure_against_gain
from analysis.plots.heat_map import win_rate_map as win_rate_map
from analysis.plots.paper import beside_paper as beside_paper
from analysis.plots.style import save as save
from analysis.plots.token_shifts import end_token_by_beta as end_token_by_beta
from analysis.plots.token_shifts import token_shifts as token_shifts
from analysis.plots.training import along_training as along_training
from analysis.plots.training import training_curves as training_curves
