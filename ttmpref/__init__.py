"""Music from a prompt, steered by a human-preference reward, judged by blind listening.

The package implements "Improving Text-to-Music Generation with Human Preference Rewards" and the
TuneJury reward it rests on. `ttmpref.studio.Studio` is the entry point; nothing heavy is imported
here, so that `python -m ttmpref --help` answers at once.
"""

__version__ = "0.1.0"
