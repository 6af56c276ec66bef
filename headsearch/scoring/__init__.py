"""Outputs of many HeadSets on one shard of the data, on one device."""
