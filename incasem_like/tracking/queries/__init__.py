"""Questions to a run store: what a short name means in a run, and conditions such as ``dice>0.8`` on it."""

from __future__ import annotations

from incasem_like.tracking.queries.fields import Condition, Field, better, parse_condition
from incasem_like.tracking.queries.select import Selection, Vocabulary, select_runs

__all__ = ["Condition", "Field", "Selection", "Vocabulary", "better", "parse_condition", "select_runs"]
