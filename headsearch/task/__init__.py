"""What must be preserved: labelled data, tokenised batches, metric."""
