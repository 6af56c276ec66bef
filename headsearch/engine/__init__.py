"""Executors and the dispatcher that keeps them busy."""
