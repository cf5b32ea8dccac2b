"""The rule of choosing.py for large pools: the same mask, without sorting everything.

A sample of the weights tells about where the boundary runs. One pass over the scores then settles every
weight that is clearly on one side, and only the narrow band between is ranked, exactly. Counts taken on the
way prove that nothing outside the band could matter; if they do not, the bracket was too narrow and the
caller gets None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .arbiters import Arbiter, arbitrate, find_arbiter
from .masks import Mask, Scores
from .ranking import descending, rank_fractions, smallest
from .seeds import generator

# the sample costs its size, the band weights / sqrt(size): their sum is least near weights ** (2 / 3)
SAMPLE_POWER = 2 / 3
CHUNK = 1 << 20  # weights that are looked at together: a few MB
ERRORS = 5.0  # half width of the bracket, in standard errors of the sample


@dataclass(frozen=True)
class Contest:
    """One pool to be decided. Every layer of it has an owner.

    scores: by voter and layer, no NaN, layers in the pool's order. like: a tensor of every layer's shape, in
    that order. keep: below the number of candidates. among: candidates, None = all.
    """

    scores: Mapping[str, Scores]
    like: Mapping[str, Tensor]
    keep: int
    arbiter: str | Arbiter
    among: Mask | None = None

    def count(self, name: str) -> int:
        return self.like[name].numel() if self.among is None else int(self.among[name].count_nonzero())

    def votes(self, name: str) -> int:
        """Keep-votes that a weight of this layer needs."""
        return find_arbiter(self.arbiter).votes(sum(name in of for of in self.scores.values()))


@dataclass
class _Ballot:
    """One voter's scores seen from its bracket [low, high]; the pass over the layers fills the lists."""

    scores: Scores
    count: int  # candidates that it ranks
    low: float
    high: float
    factor: float = 1.0  # its standing is the rank fraction divided by this
    above: int = 0  # candidates above the bracket
    inside: list[Tensor] = field(default_factory=list)  # positions in the pool, ascending, of those inside
    values: list[Tensor] = field(default_factory=list)  # and their scores
    open_above: list[Tensor] = field(default_factory=list)  # per undecided weight: above the bracket?

    def settled(self) -> float:
        """Standing that everything above the bracket reaches."""
        return self.above / max(self.count, 1) / self.factor

    def known(self) -> float:
        """Standing down to which the bracket knows every candidate."""
        ranked = self.above + sum(map(len, self.values))
        return math.inf if ranked == self.count else ranked / self.count / self.factor

    def standings(self, positions: Tensor) -> Tensor:
        """Standings at the undecided positions: exact inside, 0 above, infinity elsewhere."""
        inside, values = torch.cat(self.inside), torch.cat(self.values)
        fractions = torch.empty(len(values), dtype=torch.float64, device=values.device)
        steps = torch.arange(1, len(values) + 1, dtype=torch.float64, device=values.device)
        fractions[descending(values)] = (steps + self.above) / max(self.count, 1) / self.factor
        ranks = torch.full(positions.shape, math.inf, dtype=torch.float64, device=values.device)
        ranks[torch.cat(self.open_above)] = 0.0
        if len(inside):
            at = torch.searchsorted(inside, positions).clamp_(max=len(inside) - 1)
            hit = inside[at] == positions
            ranks[hit] = fractions[at[hit]]
        return ranks


def choose_by_bracket(contest: Contest, errors: float = ERRORS) -> Mask | None:
    """The `keep` candidates with the smallest standing, or None if the bracket missed the boundary."""
    ballots = _brackets(contest, errors)
    mask, undecided, votes = _settle(contest, ballots)
    short = contest.keep - sum(int(kept.count_nonzero()) for kept in mask.values())
    theirs = torch.stack([ballot.standings(undecided) for ballot in ballots])
    standing = theirs.sort(dim=0).values.gather(0, votes[None] - 1)[0]
    settled, known = max(b.settled() for b in ballots), min(b.known() for b in ballots)
    # all that is settled stands at `settled` or better: it must all fit together with its equals in the band
    if not int((standing <= settled).count_nonzero()) <= short <= len(standing):
        return None
    best = smallest(standing, short)
    # all that is out stands behind `known`, so nothing that stays may stand behind it too
    last = float(standing[best].max()) if short else 0.0
    if short < contest.keep:
        last = max(last, settled)
    if last > known or last == math.inf:
        return None
    _keep(mask, undecided[best])
    return mask


def _brackets(contest: Contest, errors: float) -> list[_Ballot]:
    """A ballot per voter, its bracket around the boundary of a sample of the pool."""
    sample = _sample(contest)
    standings = arbitrate({voter: rank_fractions(of) for voter, of in sample.items()}, contest.arbiter)
    ordered = torch.cat(list(standings.values())).sort().values
    counts = {name: contest.count(name) for name in contest.like}
    place = int(contest.keep / sum(counts.values()) * len(ordered))
    boundary = float(ordered[min(place, len(ordered) - 1)]) if len(ordered) else 1.0
    ballots = []
    for voter, of in contest.scores.items():
        if not of:
            continue
        values = torch.cat(list(sample[voter].values())).sort(descending=True).values
        size = max(len(values), 1)
        factor = find_arbiter(contest.arbiter).factor(voter)
        edge = min(boundary * factor, 1.0)  # as a rank fraction of this voter
        margin = errors * (math.sqrt(edge * (1 - edge) / size) + 1 / size)
        first, last = math.floor((edge - margin) * size), math.ceil((edge + margin) * size)
        high = float(values[first]) if 0 <= first < len(values) else math.inf
        low = float(values[last]) if 0 <= last < len(values) else -math.inf
        ballots.append(_Ballot(of, sum(counts[name] for name in of), low, high, factor))
    return ballots


def _sample(contest: Contest) -> dict[str, Scores]:
    """The same candidates' scores from every voter, drawn evenly over the pool; always the same draw."""
    share = sum(tensor.numel() for tensor in contest.like.values()) ** (SAMPLE_POWER - 1)
    chance = generator("bracket")
    drawn: dict[str, Tensor] = {}
    for name, like in contest.like.items():
        some = torch.randint(like.numel(), (math.ceil(share * like.numel()),), generator=chance)
        some = some.to(like.device)
        drawn[name] = some if contest.among is None else some[contest.among[name].reshape(-1)[some]]
    return {
        voter: {name: score.reshape(-1)[drawn[name]] for name, score in of.items()}
        for voter, of in contest.scores.items()
    }


def _settle(contest: Contest, ballots: list[_Ballot]) -> tuple[Mask, Tensor, Tensor]:
    """One pass: the surely kept weights, the positions of the undecided ones, and the votes these need.

    In main memory a chunk at a time: what is made on the way stays in the processor's cache, and a layer of
    a billion weights needs no temporary of its size.
    """
    mask: Mask = {}
    undecided, votes_needed, start = [], [], 0
    for name, like in contest.like.items():
        votes, size = contest.votes(name), like.numel()
        flats = [(b, b.scores[name].reshape(-1)) if name in b.scores else (b, None) for b in ballots]
        among = None if contest.among is None else contest.among[name].reshape(-1)
        kept = torch.empty(size, dtype=torch.bool, device=like.device)
        step = CHUNK if like.device.index is None else size  # an accelerator waits for every chunk
        for first in range(0, size, max(step, 1)):
            part = slice(first, first + step)
            candidates = None if among is None else among[part]
            open_ = _settle_part(flats, part, start, candidates, votes, kept[part])
            undecided.append(open_ + (start + first))
            votes_needed.append(torch.full_like(open_, votes))
        mask[name] = kept.reshape(like.shape)
        start += size
    return mask, torch.cat(undecided), torch.cat(votes_needed)


def _settle_part(
    flats: list[tuple[_Ballot, Tensor | None]],
    part: slice,
    start: int,
    candidates: Tensor | None,
    votes: int,
    kept: Tensor,
) -> Tensor:
    """Writes the surely kept weights of a part of a layer; returns the undecided positions in that part."""
    sure, maybe = torch.zeros_like(kept, dtype=torch.uint8), torch.zeros_like(kept, dtype=torch.uint8)
    aboves: list[Tensor | None] = []
    for ballot, flat in flats:
        if flat is None:
            aboves.append(None)
            continue
        above, reach = _look(ballot, flat[part], start + part.start, candidates)
        sure += above
        maybe += reach
        aboves.append(above)
    torch.ge(sure, votes, out=kept)
    open_ = ((maybe >= votes) & ~kept).nonzero().squeeze(1)
    for (ballot, _), above in zip(flats, aboves, strict=True):
        ballot.open_above.append(
            torch.zeros_like(open_, dtype=torch.bool) if above is None else above[open_]
        )
    return open_


def _look(ballot: _Ballot, flat: Tensor, start: int, candidates: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which candidates of a part are above, and which are not below, the voter's bracket."""
    above, reach = flat > ballot.high, flat >= ballot.low
    if candidates is not None:
        above &= candidates
        reach &= candidates
    inside = (reach & ~above).nonzero().squeeze(1)
    ballot.above += int(above.count_nonzero())
    ballot.inside.append(inside + start)
    ballot.values.append(flat[inside])
    return above, reach


def _keep(mask: Mask, positions: Tensor) -> None:
    """Sets positions of the pool, ascending, to True, in place."""
    start = 0
    for name, kept in mask.items():
        stop = start + kept.numel()
        first, last = (int(torch.searchsorted(positions, edge)) for edge in (start, stop))
        flat = kept.reshape(-1)
        flat[positions[first:last] - start] = True
        mask[name] = flat.reshape(kept.shape)
        start = stop
