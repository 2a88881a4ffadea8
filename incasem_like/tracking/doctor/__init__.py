"""What is inconsistent in run stores and the runs directory, and the repair of each."""

from incasem_like.tracking.doctor.examination import examine
from incasem_like.tracking.doctor.finding import Finding

__all__ = ["Finding", "examine"]
