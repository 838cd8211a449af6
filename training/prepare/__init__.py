"""`python -m training prepare`: from a folder of captioned audio to what training reads.

Stages of a run: `catalogue` (which tracks and captions), `encoders` and `work` (one track, one file
of features), `engines` (who works: this process or a Dask cluster), `store` (the files), `run` (all
of it, resumed where it was stopped), `plan` (what it will cost), `reader` (what training sees).
"""
