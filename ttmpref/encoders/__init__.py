"""Adapters around pretrained text and audio encoders, one family per file."""
