"""Who is told while a run goes on: a local history always, W&B, TensorBoard and Trackio where they are wanted."""

from lorascope.records.trackers.base import Tracker, Trackers, check_installed, open_trackers
from lorascope.records.trackers.history import History

__all__ = ["History", "Tracker", "Trackers", "check_installed", "open_trackers"]
