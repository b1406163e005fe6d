"""The share target of connections where vardiff is switched off: always the same one."""

from __future__ import annotations


class FixedTarget:
    """Answers as `Vardiff` does, and never changes."""

    __slots__ = ("bits",)

    is_below_floor = False

    def __init__(self, bits: int) -> None:
        """`bits` is the target, in compact form."""
        self.bits = bits

    def restart(self, _now: int) -> None:
        """The miner has the target only from now on."""

    def on_share(self, _now: int, _bits: int) -> bool:
        """A share was accepted."""
        return False

    def on_idle(self, _now: int) -> bool:
        """A sweep came by."""
        return False

    def suggest(self, _now: int, _target: int) -> bool:
        """The miner has a wish."""
        return False

    def set_minimum(self, _now: int, _target: int) -> bool:
        """The miner wants no easier target."""
        return False

    def set_network_target(self, _now: int, _target: int) -> bool:
        """New jobs have this network target."""
        return False
