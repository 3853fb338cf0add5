"""What the gallery shows: recipes, at sizes that one core trains in minutes, and what was seen in their grids."""

from __future__ import annotations

from typing import NamedTuple

INTRODUCTION = """# Gallery

Sample grids of the recipes, at sizes that one CPU core trains in minutes. Nothing is tuned. Each picture shows grids
from the same inputs at two points of a run. The command below a picture trains the same run through the service, with
MLflow. The table and the pictures begin with what is nearest to real digits. Pictures of rooms, which have no such
figure, come last.

`python -m docs.gallery` writes this page. `python -m docs.gallery NAME` trains an entry again and measures it, on one
CPU core. To keep runs small enough for two cores, DCGANs have narrow generators (`network.generator_channels=32`),
and rooms have 32 or 64 pixels. CPU seconds count the training steps only.

The commands look for MNIST's four files in `data/mnist`, and for LSUN's LMDBs in `data/bedroom_train_lmdb` and
`data/kitchen_train_lmdb`. Entries of pairs (edges) and of domains need what `python -m docs.gallery_data` makes of the
LMDBs first: `data/edges` and `data/domains`.

The *classifier-FID* is the Fréchet distance between 10,000 generated images and MNIST's test images; lower is better.
It uses the 128 features of a classifier that `benchmarks/digit_features.py` trains (99.1 % accuracy on the test
images). Real training images score 2.1 at 28x28 and 1.5 at 32x32; noise scores 556. *Diversity* is how much generated
images differ from one another, as a fraction of how much real images do.
"""


class Entry(NamedTuple):
    """One run.

    Attributes:
        name: of the entry and its picture.
        overrides: of the recipe, separated by spaces.
        steps, early: when the run ends, and when the first grid is made.
        seen: what a person saw in the grids.
        samples: in a grid.
    """

    name: str
    recipe: str
    overrides: str
    steps: int
    early: int
    seen: str = ""
    samples: int = 40


_SMALL = "network.generator_channels=32"
_LSUN = "data"
_DOMAINS = (
    f"data.source=lsun data.source.uri={_LSUN}/bedroom_train_lmdb data.domains.0.source=lsun "
    f"data.domains.0.source.uri={_LSUN}/kitchen_train_lmdb data.transform.size=32 batch.size=8 network.channels=16 "
    "network.critic_channels=32 network.blocks=4 network.critic_form=self"
)
_CLASSES = "data.transform.size=32 network.channels=16 network.critic_channels=32 network.blocks=3"
#: R3GAN's own networks still make blobs after a thousand steps.
_R3GAN = (
    f"network=dcgan {_SMALL} network.critic_batch_norm=false network.dropout=0 optimizer.learning_rate=5e-4 "
    "ema.decay=0.99"
)
_ROOMS = f"data.source.uri={_LSUN}/bedroom_train_lmdb"
_SMALL_ROOMS = f"{_ROOMS} data.transform.size=32 {_SMALL}"
_NARROW_ROOMS = f"{_ROOMS} network.generator_channels=16 network.critic_channels=16"
_EDGES = (
    "data.source.uri=data/edges task.makes=paired data.transform.size=64 batch.size=8 network.channels=16 "
    "network.critic_channels=16 network.critic_form=self"
)
_GROWING = (
    f"data.source.uri={_LSUN}/bedroom_train_lmdb data.transform.size=32 network.latent_dim=64 network.channels=256 "
    "network.most_channels=32 network.stable_images=8000 network.fade_images=8000"
)


def _digits(recipe: str, steps: int, early: int, overrides: str = _SMALL) -> Entry:
    return Entry(recipe, recipe, overrides, steps, early)


_SEEN = {
    "gan-mnist": "At first a few shapes in white specks; then 1, 4, 7 and 8.",
    "self-gan-mnist": "At first a few shapes in white specks; then 3, 5, 7 and 8. The notebook's weights "
    "show more kinds: see the page on the paper's pictures.",
    "self-gan-mnist-tpu": "At first specks, some dark on white; then digits of most kinds. These are the paper's "
    "pictures: see the page on them.",
    "dcgan-mnist": "Strokes and some digits; no collapse.",
    "self-dcgan-mnist": "Strokes and some digits; no collapse.",
    "lsgan-mnist": "Grey strokes that are not digits yet.",
    "self-lsgan-mnist": "Thick strokes, many of them digits; ahead of its counterpart.",
    "wgan-mnist": "Strokes among grey clouds; most steps are the critic's, five or more to the generator's one.",
    "self-wgan-mnist": "Thick strokes, some digits; ahead of its counterpart, which has had fewer generator steps.",
    "wgan-gp-mnist": "Blobs of the right size; five critic steps each leave the generator at its beginning.",
    "self-wgan-gp-mnist": "Texture, no digits: one critic step is too little for this penalty.",
    "r3gan-mnist": "Clear strokes of one width, many digits.",
    "self-r3gan-mnist": "Clear strokes of one width, many digits: the best of the unconditional ones here. Its "
    "networks are DCGAN's; R3GAN's own show blobs after 1,000 steps.",
    "self-dcgan-bedroom-tpu": "At first glaring spots on grey, as in the paper's picture; then quieter colours and the "
    "places of things, no room yet.",
    "self-ada-dcgan-bedroom": "At first stains; then a room's colours, light above and dark below, and no room yet.",
    "dragan-mnist": "Much the same texture in every tile, no digits yet.",
    "self-dragan-mnist": "one texture in every tile: on its way to a collapse.",
    "sngan-mnist": "Strokes of the right width, some digits.",
    "self-sngan-mnist": "Clear strokes, many digits.",
    "ragan-mnist": "Strokes, some digits.",
    "self-ragan-mnist": "Strokes, some digits, as its counterpart.",
    "softmax-gan-mnist": "Clear strokes of one width, many digits.",
    "self-softmax-gan-mnist": "Strokes, some digits; behind its counterpart.",
    "noisy-gan-mnist": "noise in the shape of digits, the same few shapes again and again.",
    "self-noisy-gan-mnist": "noise, nearly one image: collapsed.",
    "toy-gan-mnist": "collapsed onto clouds where digits are, which is what the guide's toy is there to show.",
    "self-toy-gan-mnist": "one cloud for all: collapsed.",
    "cgan-mnist": "Classes in turn, most of them to be recognised.",
    "self-cgan-mnist": "Classes in turn, a little behind its counterpart.",
    "sim-gan-mnist": "blobs, hardly learning: a cosine of 1 at first gives next to no gradient, as its author warns.",
    "self-sim-gan-mnist": "blobs, hardly learning; the generator's weight is as small as its loss at first.",
    "infogan-mnist": "Strokes, some digits; categories do not show yet.",
    "self-infogan-mnist": "Thick strokes that repeat themselves: partly collapsed.",
    "pix2pix-edges": "Draws the edges of the photograph, close to the true ones (right of each three).",
    "self-pix2pix-edges": "white, which is nearest in the mean: by the author's weights the critic counts for little "
    "beside the distance, where the classic form's has the weight 1.",
    "cyclegan-bedroom-kitchen": "Colours and structure of kitchens over the bedroom's layout, unsharp.",
    "self-cyclegan-bedroom-kitchen": "As the classic one, a little paler.",
    "info-cycle-bedroom-kitchen": "The room's large shapes in the other domain's browns and whites, unsharp.",
    "self-info-cycle-bedroom-kitchen": "As the classic one.",
    "pggan-bedroom": "At 8x8 colours that no room has; at the end, 32x32, brown checks and no room yet.",
    "self-pggan-bedroom": "As the classic one, and more alike.",
}

#: Whose images are no use to look at, for the reason that stands above.
FAILED = frozenset(
    {
        "noisy-gan-mnist", "self-noisy-gan-mnist", "toy-gan-mnist", "self-toy-gan-mnist", "sim-gan-mnist",
        "self-sim-gan-mnist", "self-dragan-mnist", "self-pix2pix-edges",
    }
)  # fmt: skip
#: What needs more steps than a gallery takes to show what its method does.
UNFINISHED = frozenset(
    {
        "gan-mnist", "self-gan-mnist", "lsgan-mnist", "wgan-mnist", "wgan-gp-mnist",
        "self-wgan-gp-mnist", "dragan-mnist", "infogan-mnist", "self-infogan-mnist", "pggan-bedroom",
        "self-pggan-bedroom", "self-ada-dcgan-bedroom", "self-dcgan-bedroom-tpu",
    }
)  # fmt: skip

ENTRIES = tuple(
    entry._replace(seen=_SEEN.get(entry.name, ""))
    for entry in (
        _digits("gan-mnist", 20_000, 2_000, ""),
        _digits("self-gan-mnist", 20_000, 2_000, ""),
        _digits("self-gan-mnist-tpu", 20_000, 2_000, ""),
        _digits("dcgan-mnist", 1_200, 250),
        _digits("self-dcgan-mnist", 1_200, 250),
        _digits("lsgan-mnist", 1_000, 250),
        _digits("self-lsgan-mnist", 1_000, 250),
        _digits("wgan-mnist", 400, 100),
        _digits("self-wgan-mnist", 1_000, 250),
        _digits("wgan-gp-mnist", 400, 100),
        _digits("self-wgan-gp-mnist", 1_000, 250),
        _digits("dragan-mnist", 800, 200),
        _digits("self-dragan-mnist", 800, 200),
        _digits("sngan-mnist", 400, 100),
        _digits("self-sngan-mnist", 1_000, 250),
        _digits("ragan-mnist", 1_200, 250),
        _digits("self-ragan-mnist", 1_200, 250),
        _digits("softmax-gan-mnist", 1_000, 250),
        _digits("self-softmax-gan-mnist", 1_000, 250),
        _digits("noisy-gan-mnist", 800, 200, ""),
        _digits("self-noisy-gan-mnist", 800, 200, ""),
        _digits("toy-gan-mnist", 4_000, 1_000, ""),
        _digits("self-toy-gan-mnist", 4_000, 1_000, ""),
        _digits("cgan-mnist", 1_200, 250),
        _digits("self-cgan-mnist", 1_200, 250),
        _digits("sim-gan-mnist", 1_000, 250),
        _digits("self-sim-gan-mnist", 1_000, 250),
        _digits("infogan-mnist", 700, 200),
        _digits("self-infogan-mnist", 700, 200),
        _digits("r3gan-mnist", 1_200, 250, _R3GAN),
        _digits("self-r3gan-mnist", 1_200, 250, _R3GAN),
        Entry("self-ada-dcgan-bedroom", "self-ada-dcgan-bedroom", _SMALL_ROOMS, 2_500, 500),
        Entry("self-dcgan-bedroom-tpu", "self-dcgan-bedroom-tpu", _NARROW_ROOMS, 6_000, 2_000, samples=25),
        Entry("pix2pix-edges", "pix2pix-facades", _EDGES, 1_500, 250, samples=12),
        Entry("self-pix2pix-edges", "self-pix2pix-facades", _EDGES, 1_500, 250, samples=12),
        Entry("cyclegan-bedroom-kitchen", "cyclegan", _DOMAINS, 1_000, 250, samples=20),
        Entry("self-cyclegan-bedroom-kitchen", "self-cyclegan", _DOMAINS, 1_000, 250, samples=20),
        Entry("info-cycle-bedroom-kitchen", "info-cycle-bedroom-kitchen", _CLASSES, 1_500, 250, samples=20),
        Entry("self-info-cycle-bedroom-kitchen", "self-info-cycle-bedroom-kitchen", _CLASSES, 1_500, 250, samples=20),
        Entry("pggan-bedroom", "pggan-bedroom", _GROWING, 3_500, 1_000, samples=24),
        Entry("self-pggan-bedroom", "self-pggan-bedroom", _GROWING, 3_500, 1_000, samples=24),
    )
)
IMAGES_SEEN = frozenset(entry.name for entry in ENTRIES) - FAILED - UNFINISHED
