"""An RGB picture -> the float32 [3, H, W] on which a network was trained. Pillow and numpy only.

Pillow resizes: when shrinking, each of its filters averages over all source pixels (antialiasing), as in the code
with which these networks were trained and published.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WHITE = (255, 255, 255)
LONGEST_STRIP = 16  # the longer side may be this many times the shorter
STRIPS = f"of a strip longer than {LONGEST_STRIP}:1 only the middle {LONGEST_STRIP}:1"


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Computes (x / scale - mean) / std of a square of `crop` pixels.

    shape "crop": the shorter side becomes `resize`, then the centre is cut out (the rest is lost).
          "squash": the whole picture becomes `crop` x `crop`, whatever its aspect ratio.
          "pad": the longer side becomes `crop`, the rest is filled with white.
    """

    shape: Literal["crop", "squash", "pad"]
    resize: int = 0  # pixels of the shorter side, used by "crop"
    crop: int = 224
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF
    scale: float = 255.0

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the values, for an encoder's identity."""
        how = {
            "crop": f"shorter side to {self.resize}, centre {self.crop}x{self.crop} cut out",
            "squash": f"to {self.crop}x{self.crop}, aspect ratio not kept",
            "pad": f"longer side to {self.crop}, centred on white {self.crop}x{self.crop}",
        }
        return {
            "resize": f"{how[self.shape]}; Pillow {self.interpolation}, antialiased",
            "strips": STRIPS,
            "values": f"(x / {self.scale:g} - mean) / std",
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def __call__(self, image: "Image") -> np.ndarray:
        """Convert an RGB picture of any size to float32 [3, crop, crop]."""
        square = np.asarray(self._square(middle(image.convert("RGB"))), dtype=np.float32) / np.float32(
            self.scale
        )
        mean, std = (np.array(numbers, np.float32) for numbers in (self.mean, self.std))
        return np.ascontiguousarray(((square - mean) / std).transpose(2, 0, 1))

    def _square(self, image: "Image") -> "Image":
        from PIL import Image as Pillow

        resample = Pillow.Resampling[self.interpolation.upper()]
        if self.shape == "squash":
            return image.resize((self.crop, self.crop), resample)
        if self.shape == "pad":
            width, height = _scaled(image, self.crop, longer=True)
            canvas = Pillow.new("RGB", (self.crop, self.crop), WHITE)
            canvas.paste(
                image.resize((width, height), resample), ((self.crop - width) // 2, (self.crop - height) // 2)
            )
            return canvas
        resized = image.resize(_scaled(image, self.resize, longer=False), resample)
        # Python rounds halves to even, and so does torchvision's centre crop.
        left, top = round((resized.width - self.crop) / 2), round((resized.height - self.crop) / 2)
        return resized.crop((left, top, left + self.crop, top + self.crop))


def middle(image: "Image") -> "Image":
    """Return the picture, or the middle of a strip: a 1 x 60,000,000 strip resized to side 256 would take 45 GB."""
    width, height = image.size
    longest = LONGEST_STRIP * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


def _scaled(image: "Image", side: int, *, longer: bool) -> tuple[int, int]:
    """Return (width, height) with the given shorter (or longer) side; the other side is rounded down."""
    width, height = image.size
    base = max(width, height) if longer else min(width, height)
    return max(1, int(side * width / base)), max(1, int(side * height / base))
