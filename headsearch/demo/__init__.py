"""The whole way on a real model and real data that need no model hub."""
