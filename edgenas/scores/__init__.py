"""One score of untrained networks a file."""
