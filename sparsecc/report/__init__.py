"""What sparsecc did and why, for people and for programs."""

from sparsecc.report.report import Report
from sparsecc.report.rows import DENSE_KERNEL, LayerRow

__all__ = ["DENSE_KERNEL", "LayerRow", "Report"]
