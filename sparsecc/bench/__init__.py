"""Fair measurement: an artifact and a baseline, taking turns in processes of their own."""

from sparsecc.bench.compare import PORTABLE, compare
from sparsecc.bench.measure import measure
from sparsecc.bench.result import BenchResult

__all__ = ["PORTABLE", "BenchResult", "compare", "measure"]
