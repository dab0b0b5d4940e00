"""The estate's certificate authority as its users see it: who signs, and whom to trust.

An authority with another key is another *generation*. To replace one without a client that fails,
three deployments follow one another (ADR 18): the next generation is trusted beside the one that
signs; it signs, the former is still trusted; the former is trusted no more.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from components.workload import ISSUER


def named(name: str, generation: int) -> str:
    """The name of an object of a generation; the first one's has no number."""
    return name if generation == 1 else f"{name}-{generation}"


@dataclass(frozen=True)
class Authority:
    """Signing and trusted generations, and the PEM certificates of all that are trusted."""

    signing: int = 1
    trusted: tuple[int, ...] = (1,)
    bundle: pulumi.Input[str] = ""

    @property
    def issuer(self) -> str:
        """The ClusterIssuer that signs now."""
        return named(ISSUER, self.signing)
