"""What a page of the book shows: printed numbers, verdicts, claims, figures."""
