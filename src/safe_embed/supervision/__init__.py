"""One loaded model kept in shape: measured, given fresh parts, and exchanged."""
