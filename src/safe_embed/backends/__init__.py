"""Where the model lives: on a thread of this process, or in worker processes."""
