"""What is wrong between QQ and the chat server, found out by doing each thing once."""
