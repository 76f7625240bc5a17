"""The photographs that the recipes learn from and are judged by: freely licensed, in packages.

Nothing is downloaded: scikit-image, scikit-learn and matplotlib carry these files in their wheels.
Licences were read in each package's own documentation of its data (scikit-image's docstrings,
scikit-learn's README; matplotlib's one photograph is the U.S. Navy's). Pictures whose licence is
not stated there (the motorcycle, the moon) are left out.

The split is by picture: what is held out is never trained on, in no crop and no colour.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from swift_core.errors import MediaError
from swift_core.media.pictures import load_picture
from swift_core.shapes import Float, Tensor

CC0 = "CC0 1.0"
PUBLIC_DOMAIN = "public domain"
CC_BY_2 = "CC BY 2.0 (attribution required)"


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """One picture and where it comes from.

    Attributes:
        name: what the recipes call it.
        package: importable name of the package that carries it.
        file: path inside the package.
        licence: as the package states it.
        author: to be named where the licence asks for it.
        held_out: whether it is kept for judging.
    """

    name: str
    package: str
    file: str
    licence: str
    author: str
    held_out: bool = False

    @property
    def path(self) -> Path:
        """Give the file.

        Raises:
            MediaError: if the package is not installed or does not carry the file.
        """
        found = importlib.util.find_spec(self.package)
        if found is None or found.origin is None:
            raise MediaError(
                f"the photograph {self.name} is in the package {self.package}, which is not "
                "installed: pip install -r requirements/training.txt."
            )
        path = Path(found.origin).parent / self.file
        if not path.is_file():
            raise MediaError(
                f"the installed {self.package} does not carry {self.file}; install the version "
                "in requirements/training.txt."
            )
        return path


def _skimage(name: str, file: str, licence: str, author: str) -> Photograph:
    return Photograph(
        name=name, package="skimage", file=f"data/{file}", licence=licence, author=author
    )


PHOTOGRAPHS = (
    _skimage("astronaut", "astronaut.png", PUBLIC_DOMAIN, "NASA"),
    _skimage("chelsea", "chelsea.png", CC0, "Stefan van der Walt"),
    _skimage("rocket", "rocket.jpg", PUBLIC_DOMAIN, "SpaceX"),
    _skimage("retina", "retina.jpg", CC0, "Mikael Häggström"),
    _skimage("hubble", "hubble_deep_field.jpg", PUBLIC_DOMAIN, "NASA"),
    _skimage("tissue", "ihc.png", "no known copyright restrictions", "not named (skimage)"),
    _skimage("brick", "brick.png", CC0, "CC0Textures, Bricks25"),
    _skimage("grass", "grass.png", CC0, "Linolafett, DeviantArt"),
    _skimage("gravel", "gravel.png", CC0, "CC0Textures, Gravel04"),
    _skimage("coins", "coins.png", "no known copyright restrictions", "Brooklyn Museum"),
    Photograph(
        name="china",
        package="sklearn",
        file="datasets/images/china.jpg",
        licence=CC_BY_2,
        author="danielbuechele, flickr.com/photos/danielbuechele/6061409035",
    ),
    Photograph(
        name="hopper",
        package="matplotlib",
        file="mpl-data/sample_data/grace_hopper.jpg",
        licence=PUBLIC_DOMAIN,
        author="James S. Davis, U.S. Navy",
    ),
    Photograph(
        name="coffee",
        package="skimage",
        file="data/coffee.png",
        licence=CC0,
        author="Rachel Michetti",
        held_out=True,
    ),
    Photograph(
        name="camera",
        package="skimage",
        file="data/camera.png",
        licence=CC0,
        author="Lav Varshney",
        held_out=True,
    ),
    Photograph(
        name="flower",
        package="sklearn",
        file="datasets/images/flower.jpg",
        licence=CC_BY_2,
        author="vultilion, flickr.com/photos/vultilion/6056698931",
        held_out=True,
    ),
)
"""All of them; ``coffee`` is also ``sample/coffee.jpg``, which the demo starts from."""


def load_photographs(
    *, held_out: bool, cache: Path | None = None
) -> dict[str, Float[Tensor, "h w 3"]]:
    """Read one side of the split, in [0, 1].

    Args:
        cache: a file to keep them in, all of one side, as 8 bits; read instead of the packages
            if it is there, so that a machine without these packages can train.

    Raises:
        MediaError: if a package is missing and there is no cache.
    """
    wanted = [photograph for photograph in PHOTOGRAPHS if photograph.held_out is held_out]
    if cache is not None and cache.is_file():
        levels = load_file(cache)
        return {photograph.name: levels[photograph.name].float() / 255 for photograph in wanted}
    pictures = {photograph.name: load_picture(photograph.path) for photograph in wanted}
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {
                name: picture.mul(255).round().to(torch.uint8).contiguous()
                for name, picture in pictures.items()
            },
            cache,
        )
    return pictures
