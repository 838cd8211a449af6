"""What the Stages tab says, in plain words."""

from __future__ import annotations

from html import escape

BLIND = "Clips come in random order under letters; ask which is which when you have listened."
COVERED = "Its stage and measurements are shown when you ask which is which."
ONLY_ONE = "Only this stage can be used here, so for now its clip stands alone."
OTHER_HEADS = (
    "A stage is weights and the score head they were trained with. Ticked here, the same weights "
    "also run under another head: an ablation that shows what the head does, not a better model."
)
NO_OTHER_HEADS = (
    "No stage that can be used here takes the score, so there are no weights to run under another "
    "head."
)
HEADS = {
    "global_adaln": "GlobalAdaLN (v1)",
    "input_add": "InputAdd (v2)",
    "audio_prepend": "AudioPrepend (v3)",
    "latent_adaln": "LatentAdaLN (v4)",
    "text_prepend": "TextPrepend (v5)",
}
EMPTY_DESK = (
    '<div class="empty"><h3>One prompt, every stage</h3><p>Describe some music and press Compare. '
    "Each stage makes a clip from the same random start, and you switch between them while they "
    "play.</p></div>"
)
EVIDENCE = (
    "Tables and figures measured on this system, beside the paper's published numbers in columns "
    "of their own. The paper's system is larger and learned from other data, so only the direction "
    "of a difference can be compared."
)
NO_EVIDENCE = (
    '<div class="empty"><h3>Nothing measured yet</h3><p>Tables and figures of the chain are shown '
    "here once this command has made them:</p>"
    "<p><code>python -m ttmpref tables</code></p></div>"
)


def how_to_make(preset: str) -> str:
    """The command that trains stages of a preset."""
    return (
        "What a recipe can train is made by <code>python -m training chain --recipe "
        f"{escape(preset)}</code>."
    )
