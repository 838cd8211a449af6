"""The look of the app: one palette (warm paper, deep teal, amber), system fonts, light and dark.

Colours are Gradio theme variables, so that every component follows them; what Gradio has no
variable for (clip cards, header, layout) is in `static/app.css`, which reads the same variables.
Nothing is fetched from elsewhere: fonts are those the visitor's system already has.
"""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils.colors import Color

SYSTEM_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
SYSTEM_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

TEAL = Color(
    name="teal_ink",
    c50="#eef7f5", c100="#d5ece7", c200="#abd9d0", c300="#78bfb3", c400="#46a294",
    c500="#23867a", c600="#0d6b62", c700="#0a574f", c800="#0a453f", c900="#0a3733", c950="#041f1d",
)  # fmt: skip
PAPER = Color(
    name="paper",
    c50="#faf9f6", c100="#f2f1ec", c200="#e3e1d9", c300="#cbc9c0", c400="#98a09b",
    c500="#6b7571", c600="#525c58", c700="#333d3a", c800="#1e2624", c900="#171d1c", c950="#101514",
)  # fmt: skip


def build_theme() -> gr.themes.Base:
    """The theme given to `Blocks.launch`."""
    theme = gr.themes.Base(
        primary_hue=TEAL, secondary_hue=TEAL, neutral_hue=PAPER,
        font=SYSTEM_FONT, font_mono=SYSTEM_MONO,
        radius_size=gr.themes.sizes.radius_md, spacing_size=gr.themes.sizes.spacing_md,
    )  # fmt: skip
    return theme.set(**_surfaces(), **_controls(), **_buttons())


def _surfaces() -> dict[str, str]:
    return {
        "body_background_fill": "*neutral_100",
        "body_background_fill_dark": "*neutral_950",
        "body_text_color": "*neutral_800",
        "body_text_color_dark": "#e6ebe8",
        "body_text_color_subdued": "*neutral_600",
        "body_text_color_subdued_dark": "*neutral_400",
        "background_fill_primary": "#ffffff",
        "background_fill_primary_dark": "*neutral_900",
        "background_fill_secondary": "*neutral_50",
        "background_fill_secondary_dark": "*neutral_800",
        "border_color_primary": "*neutral_200",
        "border_color_primary_dark": "*neutral_700",
        "block_background_fill": "transparent",
        "block_background_fill_dark": "transparent",
        "block_border_width": "0px",
        "block_border_width_dark": "0px",
        "block_padding": "0px",
        "block_shadow": "none",
        "block_label_background_fill": "transparent",
        "block_label_background_fill_dark": "transparent",
        "panel_background_fill": "transparent",
        "panel_border_width": "0px",
        "form_gap_width": "0px",
        "layout_gap": "18px",
        "link_text_color": "*primary_700",
        "link_text_color_dark": "*primary_300",
    }


def _controls() -> dict[str, str]:
    return {
        "block_title_text_color": "*neutral_800",
        "block_title_text_color_dark": "#e6ebe8",
        "block_title_text_weight": "600",
        "block_title_text_size": "*text_sm",
        "block_info_text_color": "*neutral_600",
        "block_info_text_color_dark": "*neutral_400",
        "block_info_text_size": "*text_sm",
        "input_background_fill": "#ffffff",
        "input_background_fill_dark": "*neutral_950",
        "input_background_fill_focus": "#ffffff",
        "input_background_fill_focus_dark": "*neutral_950",
        "input_border_width": "1px",
        "input_border_color": "*neutral_300",
        "input_border_color_dark": "*neutral_700",
        "input_border_color_focus": "*primary_600",
        "input_border_color_focus_dark": "*primary_400",
        "input_shadow": "none",
        "input_shadow_focus": "0 0 0 3px color-mix(in srgb, *primary_500 22%, transparent)",
        "input_placeholder_color": "*neutral_500",
        "input_placeholder_color_dark": "*neutral_500",
        "slider_color": "*primary_600",
        "slider_color_dark": "*primary_400",
        "checkbox_background_color_selected": "*primary_600",
        "checkbox_background_color_selected_dark": "*primary_500",
        "checkbox_border_color_selected": "*primary_600",
        "checkbox_border_color_selected_dark": "*primary_500",
        "checkbox_label_background_fill": "transparent",
        "checkbox_label_background_fill_dark": "transparent",
        "checkbox_label_background_fill_selected": "transparent",
        "checkbox_label_background_fill_selected_dark": "transparent",
    }


def _buttons() -> dict[str, str]:
    return {
        "button_large_radius": "*radius_lg",
        "button_primary_background_fill": "*primary_600",
        "button_primary_background_fill_hover": "*primary_700",
        "button_primary_background_fill_dark": "*primary_400",
        "button_primary_background_fill_hover_dark": "*primary_300",
        "button_primary_text_color": "#ffffff",
        "button_primary_text_color_dark": "*primary_950",
        "button_primary_border_color": "*primary_600",
        "button_primary_border_color_dark": "*primary_400",
        "button_secondary_background_fill": "#ffffff",
        "button_secondary_background_fill_hover": "*neutral_50",
        "button_secondary_background_fill_dark": "*neutral_800",
        "button_secondary_background_fill_hover_dark": "*neutral_700",
        "button_secondary_border_color": "*neutral_300",
        "button_secondary_border_color_dark": "*neutral_700",
        "button_secondary_text_color": "*neutral_800",
        "button_secondary_text_color_dark": "#e6ebe8",
        "button_border_width": "1px",
    }
