"""Which rows are worth training on: cleaning, similarity, judging, hard samples."""
