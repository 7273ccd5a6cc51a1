"""Recipe of the demo checkpoint: drawn pictures, made-up dialogues, a tiny Qwen3-VL, its training and its exam."""
