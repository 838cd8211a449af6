"""Blind listening studies: definition, stimuli, assignment, database, API, exports, statistics."""
