"""The backend whose models live in worker processes."""
