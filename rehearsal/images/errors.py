"""The one exception of the image builder."""

from __future__ import annotations

from rehearsal.errors import EstateError


class ImageError(EstateError):
    """An image or a layer cannot be made.

    The message is one line: ``image KEY, layer LAYER: what is wrong (value); way out``.

    :param image: the image's key, or ``None`` when no single image is the cause (apt, the lock).
    :param layer: the layer's name within the image, or ``None``.
    :param problem: what is wrong, with the offending value in it.
    :param way_out: what the reader can do about it.
    """

    def __init__(
        self, problem: str, way_out: str, *, image: str | None = None, layer: str | None = None
    ) -> None:
        self.image = image
        self.layer = layer
        self.problem = problem
        self.way_out = way_out
        where = ", ".join(
            part
            for part in (f"image {image}" if image else "", f"layer {layer}" if layer else "")
            if part
        )
        super().__init__(where or "images", problem, way_out)

    def within(self, image: str, layer: str | None) -> ImageError:
        """The same error, with the image and the layer that it happened in."""
        return ImageError(
            self.problem, self.way_out, image=self.image or image, layer=self.layer or layer
        )
