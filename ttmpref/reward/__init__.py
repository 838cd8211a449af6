"""The preference reward (TuneJury): features of a clip and its prompt, heads, scores of files."""
