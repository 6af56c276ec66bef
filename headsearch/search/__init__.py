"""The search: numpy only, one deterministic loop that never sees a worker."""
