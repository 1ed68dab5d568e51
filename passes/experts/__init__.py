"""Mixtures of experts that do with fewer: some are left out, or several become one."""
