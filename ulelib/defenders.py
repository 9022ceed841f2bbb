"""The paper's four defenders (section 4): one loop, four views of the clean image.

ULEO             F'(x + delta)                  Huang et al., ICLR 2021
ULEO-Augs        F'(Aug(x) + delta)
ULEO-Grays       F'(Gray(x) + delta)            delta equal in all three channels
ULEO-GrayAugs    F'(Gray(Aug(x)) + delta)       delta equal in all three channels
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from ulelib import views
from ulelib.bilevel import BilevelConfig, minimise_error
from ulelib.data import ImageSet
from ulelib.perturbation import Perturbation
from ulelib.views import View


@dataclass(frozen=True)
class Defender:
    """What tells one defender from another.

    Attributes:
        name: as in Table 2.
        view: how the source model sees the clean image.
        gray_delta: one value in all three channels.
        class_wise: one delta a class.
        step_factor: times the config's inner step.
        stop_view: the view of the stop test, if not `view`.
    """

    name: str
    view: View
    gray_delta: bool = False
    class_wise: bool = False
    step_factor: float = 1.0
    stop_view: View | None = None

    def configure(self, config: BilevelConfig) -> BilevelConfig:
        """The loop's settings for this defender."""
        return replace(config, step=self.step_factor * config.step)

    def protect(
        self,
        images: ImageSet,
        make_model: Callable[[], nn.Module],
        config: BilevelConfig,
        *,
        seed: int = 0,
        precision: str = "float32",
    ) -> Perturbation:
        """Algorithm 1 with this defender's view; arguments and errors: `bilevel.minimise_error`."""
        return minimise_error(
            images,
            make_model,
            self.view,
            self.configure(config),
            gray_delta=self.gray_delta,
            class_wise=self.class_wise,
            stop_view=self.stop_view,
            seed=seed,
            precision=precision,
            name=self.name,
        )


ULEO = Defender("ULEO", views.identity)
ULEO_AUGS = Defender("ULEO-Augs", views.crop_flip)
ULEO_GRAYS = Defender("ULEO-Grays", views.gray, gray_delta=True)
ULEO_GRAYAUGS = Defender("ULEO-GrayAugs", views.gray_crop_flip, gray_delta=True)


# The released loop departs from the paper in two ways: its step is the sum of the gradient's signs
# over the three channels, so three times as long (ULE-GrayAug `toolbox.py:50`), and its stop test
# sees cropped colour images (`perturbation.py:266`).
ULEO_GRAYAUGS_RELEASED = replace(
    ULEO_GRAYAUGS,
    name="ULEO-GrayAugs (released loop)",
    step_factor=3.0,
    stop_view=views.crop_flip,
)

DEFENDERS = {
    defender.name: defender
    for defender in (
        ULEO,
        ULEO_AUGS,
        ULEO_GRAYS,
        ULEO_GRAYAUGS,
        # With the profile's inner steps; the released class-wise command takes one step a batch.
        replace(ULEO, name="ULEO class-wise", class_wise=True),
        ULEO_GRAYAUGS_RELEASED,
    )
}
