"""The five prompt styles: words per slot and the sentences that hold them. Exact strings of the guide."""

from __future__ import annotations

from dataclasses import dataclass

from mvfl.config.strict import PromptStyle


@dataclass(frozen=True)
class Style:
    """One prompt style: six words and a template with `{view}`."""

    views: tuple[str, ...]
    template: str
    normal_template: str

    @property
    def prompts(self) -> list[str]:
        """The strings, one per slot."""
        return [self.template.format(view=v) for v in self.views]

    @property
    def normal_prompts(self) -> list[str]:
        """The strings for normal or depth maps; recorded, not used in training."""
        return [self.normal_template.format(view=v) for v in self.views]


_HYPHENS = ("front", "front-right", "right", "back", "left", "front-left")
_ELEVATED = "a rendering image of a 3D model, {view} view, from above at an angle, "
STYLES: dict[PromptStyle, Style] = {
    "facelift": Style(
        ("front", "front_right", "right", "back", "left", "front_left"),
        "a rendering image of 3D models, {view} view, color map.",
        "a rendering image of 3D models, {view} view, normal map.",
    ),
    "mouse_elevated": Style(
        ("top-front", "top-front-right", "top-right", "top-back", "top-left", "top-front-left"),
        _ELEVATED + "color map.",
        _ELEVATED + "normal map.",
    ),
    "realistic": Style(
        _HYPHENS,
        "a photograph of a mouse, {view} view, from above at an angle.",
        "a depth image of a mouse, {view} view, from above at an angle.",
    ),
    "hybrid": Style(
        _HYPHENS,
        "a multi-view image of a mouse, {view} view, elevated camera.",
        "a normal map of a mouse, {view} view, elevated camera.",
    ),
    "simple": Style(_HYPHENS, "a mouse, {view} view, top-down angle.", "a mouse depth map, {view} view, top-down angle."),
}
