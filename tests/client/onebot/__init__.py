"""A OneBot v11 side, a picture host and a chat server on loopback, with faults on demand."""
