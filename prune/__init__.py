"""Structured channel pruning with recovery fine-tuning, judged by what it saves."""
