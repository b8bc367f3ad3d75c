"""Questions that say what an earlier one says: the likeness of their embeddings.

Not for equal ones (construction.py). The invariant: of two that are alike the first stays, whatever comes later.
"""

from collections.abc import Sequence

import numpy as np

from emray.probes.embeddings import Kernel, kernel_identity
from emray.recipe.recipe_fields import DeduplicateSpec


class Copies:
    """By a kernel and a likeness; the kernel is loaded when it is first needed."""

    def __init__(self, spec: DeduplicateSpec) -> None:
        """Raises DataError for a kernel that is not there."""
        self._spec = spec
        self.kernel = None if spec.cosine is None else kernel_identity(spec.kernel)
        self._kernel: Kernel | None = None

    def __call__(self, earlier: Sequence[str], new: Sequence[str]) -> list[bool]:
        """Which of the new ones are copies of an earlier one, or of a new one before them that is none."""
        if self._spec.cosine is None or not new:
            return [False] * len(new)
        if self._kernel is None:
            self._kernel = Kernel(self._spec.kernel, device="cpu")
        units = self._kernel.units([*earlier, *new])
        stays = np.zeros(len(units), dtype=bool)
        stays[: len(earlier)] = True
        for place in range(len(earlier), len(units)):
            near = units[:place] @ units[place] >= self._spec.cosine - 1e-9
            stays[place] = not (near & stays[:place]).any()
        return [not one for one in stays[len(earlier) :].tolist()]
