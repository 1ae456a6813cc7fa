"""What becomes of a call: its tasks, their order, and the engine that does them."""
