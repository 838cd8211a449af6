"""Networks, one per file. Each takes its frozen config and owns nothing but tensors."""
