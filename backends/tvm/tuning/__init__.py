"""Tuning: schedules for what TVM computes, found by timing many on this machine."""
