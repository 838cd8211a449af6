"""Moving averages of weights whose length is chosen after training (paper, section IV; spec 4.2).

A power-function average of update k weighs the weights of update t by p(t) = (g + 1) t^g / k^(g+1):
its memory grows with the run. Its length is given as `sigma_rel`, the deviation of that profile in
units of the run; the exponent g follows. Two such averages are tracked and written down now and
then; the average of any other length is a mixture of those snapshots, whose profiles are fitted to
the wanted one by least squares (Karras et al., 2024, section 3 and appendix C).

Only what is trained is averaged. Frozen statistics and counters are taken as they are: a mixture
must not rescale them. The mixture's weights are held to the sum of 1, which every profile has, so
that a weight that never moved comes out as it is; the reference leaves the sum free.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.loop import write_aside

SIGMAS = (0.05, 0.1)
# sigma_rel of g = 0, the plain mean of all updates; longer ones would weigh the start most.
LONGEST = 12**-0.5
METADATA = "snapshot"


def exponent(sigma_rel: float) -> float:
    """The exponent g of the profile whose relative deviation is `sigma_rel`.

    Deviation^2 = (g + 1) / ((g + 2)^2 (g + 3)), solved for its largest real root.

    Raises:
        ValueError: `sigma_rel` is not in (0, 0.2887].
    """
    if not 0 < sigma_rel <= LONGEST:
        raise ValueError(f"sigma_rel is {sigma_rel}; accepted: above 0, up to {LONGEST:.4f}")
    inverse = sigma_rel**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(roots.real[np.abs(roots.imag) < 1e-9].max())


def decay(g: float, update: int) -> float:
    """Share of the old average that update `update` (1, 2, ...) keeps; the reference's rule."""
    return ((1 - 1 / (update + 1)) * (1 - 1 / (update + 2))) ** ((1 + g) / 2)


class PostHocAverage(nn.Module):
    """Tracked averages of a network's trained tensors, beside the rest of its state.

    Part of a job's `modules()`, so a resumed run goes on with the same bits.

    Args:
        network: averaged from its present weights on.
        sigmas: relative lengths of the averages.
    """

    def __init__(self, network: nn.Module, sigmas: Sequence[float] = SIGMAS) -> None:
        super().__init__()
        self.sigmas = tuple(sigmas)
        self.exponents = tuple(map(exponent, self.sigmas))
        self.updates = 0
        trained = {name for name, p in network.named_parameters() if p.requires_grad}
        state = network.state_dict()
        self.names = list(state)
        self.averaged = [name for name in self.names if name in trained]
        self.kept = [name for name in self.names if name not in trained]
        for track in range(len(self.sigmas)):
            for index, name in enumerate(self.averaged):
                self.register_buffer(f"track{track}_{index}", state[name].detach().clone())
        for index, name in enumerate(self.kept):
            self.register_buffer(f"kept_{index}", state[name].detach().clone())

    def get_extra_state(self) -> Tensor:
        """The number of updates; on the CPU, so that no update waits for the device."""
        return torch.tensor(self.updates)

    def set_extra_state(self, state: Tensor) -> None:
        self.updates = int(state)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the network's weights into every track; call once per optimiser update."""
        self.updates += 1
        state = network.state_dict()
        live = [state[name] for name in self.averaged]
        for track, g in enumerate(self.exponents):
            # The first update starts the averages from its own weights.
            share = 1 - decay(g, self.updates) if self.updates > 1 else 1.0
            torch._foreach_lerp_(self._track(track), live, share)
        torch._foreach_copy_(self._kept(), [state[name] for name in self.kept])

    def _track(self, track: int) -> list[Tensor]:
        return [getattr(self, f"track{track}_{index}") for index in range(len(self.averaged))]

    def _kept(self) -> list[Tensor]:
        return [getattr(self, f"kept_{index}") for index in range(len(self.kept))]

    def weights(self, sigma_rel: float | None = None) -> dict[str, Tensor]:
        """State dict of the network with a tracked average in place of what is trained.

        Args:
            sigma_rel: one of `sigmas`; the first by default.

        Raises:
            ValueError: another length; those are made from snapshots by `synthesise`.
        """
        sigma_rel = self.sigmas[0] if sigma_rel is None else sigma_rel
        if sigma_rel not in self.sigmas:
            raise ValueError(f"sigma_rel {sigma_rel} is not tracked; accepted: {self.sigmas}")
        track = self._track(self.sigmas.index(sigma_rel))
        found = dict(zip(self.averaged, track, strict=True))
        found |= dict(zip(self.kept, self._kept(), strict=True))
        return {name: found[name] for name in self.names}

    def snapshot(self, folder: Path) -> None:
        """Write every track to `folder`, as the loop does with every checkpoint.

        Writing the same update again changes nothing; before the first there is nothing to write.
        """
        if self.updates == 0:
            return
        for sigma_rel in self.sigmas:
            facts = {"sigma_rel": sigma_rel, "updates": self.updates, "kept": self.kept}
            tensors = {name: t.contiguous() for name, t in self.weights(sigma_rel).items()}
            path = folder / f"{self.updates:09d}-{sigma_rel}.safetensors"
            # One entry, since the order of several would change from process to process.
            metadata = {METADATA: json.dumps(facts)}
            write_aside(path, lambda p, t=tensors, m=metadata: save_file(t, p, metadata=m))


@dataclass(frozen=True)
class Snapshot:
    """A file of `PostHocAverage.snapshot`."""

    path: Path
    sigma_rel: float
    updates: int
    kept: frozenset[str]

    @staticmethod
    def open(path: Path) -> Snapshot:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()[METADATA])
        return Snapshot(path, facts["sigma_rel"], facts["updates"], frozenset(facts["kept"]))

    @property
    def profile(self) -> tuple[float, int]:
        return exponent(self.sigma_rel), self.updates


def snapshots(folder: Path) -> list[Snapshot]:
    """All snapshots of a run, oldest first."""
    return [Snapshot.open(path) for path in sorted(folder.glob("[!.]*.safetensors"))]


def overlap(a: tuple[float, int], b: tuple[float, int]) -> float:
    """Inner product over time of two profiles (exponent, updates): the integral of p_a p_b."""
    (g_a, t_a), (g_b, t_b) = a, b
    shorter, longer = min(t_a, t_b), max(t_a, t_b)
    scale = (g_a + 1) * (g_b + 1) / (g_a + g_b + 1)
    return scale * (shorter / t_a) ** g_a * (shorter / t_b) ** g_b / longer


def mixture(profiles: Sequence[tuple[float, int]], wanted: tuple[float, int]) -> np.ndarray:
    """Weights (n,) with sum 1 whose mix of `profiles` is nearest to the profile `wanted`.

    Least squares under that constraint, by a Lagrange multiplier.
    """
    n = len(profiles)
    system = np.ones((n + 1, n + 1))
    system[:n, :n] = [[overlap(a, b) for b in profiles] for a in profiles]
    system[n, n] = 0.0
    target = np.array([*(overlap(a, wanted) for a in profiles), 1.0])
    return np.linalg.solve(system, target)[:n]


def synthesise(folder: Path, sigma_rel: float, updates: int | None = None) -> dict[str, Tensor]:
    """The average of any length, made after training from a run's snapshots.

    Args:
        folder: where `PostHocAverage.snapshot` wrote.
        sigma_rel: wanted length, in (0, 0.2887]; fits best near the tracked ones.
        updates: as if training had ended there; the last snapshot by default.

    Returns:
        State dict of the network; what is not trained is that of the last snapshot used.

    Raises:
        ValueError: no snapshot has that number of updates, or the length cannot be.
    """
    found = snapshots(folder)
    ends = sorted({snapshot.updates for snapshot in found})
    updates = ends[-1] if updates is None and ends else updates
    if updates not in ends:
        raise ValueError(f"no snapshot of {updates} updates in {folder}; there are: {ends}")
    used = [snapshot for snapshot in found if snapshot.updates <= updates]
    shares = mixture([snapshot.profile for snapshot in used], (exponent(sigma_rel), updates))
    total: dict[str, Tensor] = {}
    for snapshot, share in zip(used, shares, strict=True):
        for name, tensor in load_file(snapshot.path).items():
            if name not in snapshot.kept:
                total[name] = total.get(name, 0.0) + share * tensor.double()
    last = load_file(used[-1].path)
    return {name: total[name].to(t.dtype) if name in total else t for name, t in last.items()}
