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
from functools import cached_property

import torch
from torch import Tensor

from .arbiters import Arbiter, arbitrate, find_arbiter
from .masks import Mask, Scores
from .ranking import descending, rank_fractions, smallest
from .seeds import generator

# the sample costs its size, the band weights / sqrt(size): their sum is least near weights ** (2 / 3)
SAMPLE_POWER = 2 / 3
CHUNK = 1 << 18  # weights that are looked at together: what fits a processor's cache
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

    @cached_property
    def counts(self) -> dict[str, int]:
        """Candidates of every layer."""
        if self.among is None:
            return {name: like.numel() for name, like in self.like.items()}
        return {name: int(self.among[name].count_nonzero()) for name in self.like}

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

    def look(
        self, flat: Tensor, start: int, candidates: Tensor | None, above: Tensor, inside: Tensor
    ) -> None:
        """Writes which scores of a chunk are above the bracket and which inside; notes those inside.

        start: position of the chunk in the pool. candidates: None = all.
        """
        torch.gt(flat, self.high, out=above)
        torch.ge(flat, self.low, out=inside)
        inside ^= above  # above is part of it
        if candidates is not None:
            above &= candidates
            inside &= candidates
        places = inside.nonzero().squeeze(1)
        self.inside.append(places + start)
        self.values.append(flat[places])

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
    if len(ballots) == 1:
        return _choose_alone(contest, ballots[0])
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


def _choose_alone(contest: Contest, ballot: _Ballot) -> Mask | None:
    """The same for one voter, whose scores are in the order of its standings: nothing need be ranked."""
    mask: Mask = {}
    start = 0
    for name, like in contest.like.items():
        flat = ballot.scores[name].reshape(-1)
        among = None if contest.among is None else contest.among[name].reshape(-1)
        kept = torch.empty(len(flat), dtype=torch.bool, device=like.device)
        step = _step(flat)
        room = torch.empty(step, dtype=torch.bool, device=like.device)
        for first in range(0, len(flat), max(step, 1)):
            part = slice(first, first + step)
            candidates = None if among is None else among[part]
            ballot.look(flat[part], start + first, candidates, kept[part], room[: len(flat[part])])
        mask[name] = kept.reshape(like.shape)
        start += len(flat)
    inside, values = torch.cat(ballot.inside), torch.cat(ballot.values)
    short = contest.keep - sum(int(kept.count_nonzero()) for kept in mask.values())
    if not 0 <= short <= len(inside):
        return None
    _keep(mask, inside[smallest(-values, short)])
    return mask


def _brackets(contest: Contest, errors: float) -> list[_Ballot]:
    """A ballot per voter, its bracket around the boundary of a sample of the pool."""
    sample, counts = _sample(contest), contest.counts
    share = contest.keep / sum(counts.values())
    boundary = share
    if len(sample) > 1:  # of one voter the share itself is the rank fraction at the boundary
        standings = arbitrate({voter: rank_fractions(of) for voter, of in sample.items()}, contest.arbiter)
        ordered = torch.cat(list(standings.values())).sort().values
        place = int(share * len(ordered))
        boundary = float(ordered[min(place, len(ordered) - 1)]) if len(ordered) else 1.0
    ballots = []
    for voter, drawn in sample.items():
        of = contest.scores[voter]
        values = torch.cat(list(drawn.values())).sort(descending=True).values
        size = max(len(values), 1)
        factor = find_arbiter(contest.arbiter).factor(voter) if len(sample) > 1 else 1.0
        edge = min(boundary * factor, 1.0)  # as a rank fraction of this voter
        margin = errors * (math.sqrt(edge * (1 - edge) / size) + 1 / size)
        first, last = math.floor((edge - margin) * size), math.ceil((edge + margin) * size)
        high = float(values[first]) if 0 <= first < len(values) else math.inf
        low = float(values[last]) if 0 <= last < len(values) else -math.inf
        ballots.append(_Ballot(of, sum(counts[name] for name in of), low, high, factor))
    return ballots


def _sample(contest: Contest) -> dict[str, Scores]:
    """The same candidates' scores from every voter that has any, drawn evenly over the pool; always the same
    draw."""
    share = sum(tensor.numel() for tensor in contest.like.values()) ** (SAMPLE_POWER - 1)
    chance = generator("bracket")
    drawn: dict[str, Tensor] = {}
    for name, like in contest.like.items():
        some = torch.randint(max(like.numel(), 1), (math.ceil(share * like.numel()),), generator=chance)
        some = some.to(like.device)
        drawn[name] = some if contest.among is None else some[contest.among[name].reshape(-1)[some]]
    return {
        voter: {name: score.reshape(-1)[drawn[name]] for name, score in of.items()}
        for voter, of in contest.scores.items()
        if of
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
        flats = [b.scores[name].reshape(-1) if name in b.scores else None for b in ballots]
        among = None if contest.among is None else contest.among[name].reshape(-1)
        kept = torch.empty(size, dtype=torch.bool, device=like.device)
        step = _step(like)
        room = _Room(step, len(ballots), votes, like.device)
        for first in range(0, size, max(step, 1)):
            part = slice(first, min(first + step, size))
            for place, (ballot, flat) in enumerate(zip(ballots, flats, strict=True)):
                if flat is not None:
                    candidates = None if among is None else among[part]
                    room.look(ballot, place, flat[part], start + first, candidates)
            open_ = room.tally(kept[part])
            for place, (ballot, flat) in enumerate(zip(ballots, flats, strict=True)):
                above = room.above[place][: len(kept[part])]
                ballot.open_above.append(above[open_] if flat is not None else open_ < 0)
            undecided.append(open_ + (start + first))
            votes_needed.append(torch.full_like(open_, votes))
        mask[name] = kept.reshape(like.shape)
        start += size
    return mask, torch.cat(undecided), torch.cat(votes_needed)


def _step(like: Tensor) -> int:
    """Weights of a layer that are looked at together."""
    # an accelerator waits for each chunk
    return min(CHUNK, like.numel()) if like.device.index is None else like.numel()


class _Room:
    """Memory for one chunk, used again for the next: fresh pages would cost more than the counting."""

    def __init__(self, size: int, voters: int, votes: int, device: torch.device) -> None:
        """votes: keep-votes that a weight needs."""
        self.votes = votes
        self.above = torch.empty(voters, size, dtype=torch.bool, device=device)
        self.reach = torch.empty(size, dtype=torch.bool, device=device)
        self.sure = torch.zeros(size, dtype=torch.uint8, device=device)  # voters that surely want it
        self.maybe = torch.zeros(size, dtype=torch.uint8, device=device)  # and those that may

    def look(self, ballot: _Ballot, place: int, flat: Tensor, start: int, candidates: Tensor | None) -> None:
        """Enters one voter's scores of a chunk: what is above its bracket, and what is inside."""
        above, reach = self.above[place][: len(flat)], self.reach[: len(flat)]
        ballot.look(flat, start, candidates, above, reach)
        ballot.above += int(above.count_nonzero())
        reach |= above
        for votes, seen in ((self.sure, above), (self.maybe, reach)):
            if self.votes == 1:  # whether, not how many
                votes[: len(flat)] |= seen.view(torch.uint8)
            else:
                votes[: len(flat)] += seen.view(torch.uint8)

    def tally(self, kept: Tensor) -> Tensor:
        """Writes the surely kept weights of a chunk, returns the undecided positions in it, and starts
        anew."""
        sure, maybe, reach = (each[: len(kept)] for each in (self.sure, self.maybe, self.reach))
        if self.votes == 1:
            kept.copy_(sure.view(torch.bool))
            reach.copy_(maybe.view(torch.bool))
        else:
            torch.ge(sure, self.votes, out=kept)
            torch.ge(maybe, self.votes, out=reach)
        reach ^= kept
        sure.zero_()
        maybe.zero_()
        return reach.nonzero().squeeze(1)


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
