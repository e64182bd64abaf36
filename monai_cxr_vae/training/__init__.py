"""The training loop: batches and handlers."""
