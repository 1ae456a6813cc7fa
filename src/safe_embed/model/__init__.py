"""The one thing that grows: tokenizer and model, and the thread they work on."""
