"""The index's rows as the API's answers: bytes become hex and addresses, big integers text, microseconds seconds."""

from __future__ import annotations

from pool_oracle.api import answers
from pool_oracle.ledger.index import rows
from pool_oracle.networks import Network
from pool_oracle.payout.payee import address_of, format_payee
from pool_oracle.units import Payee
from pool_oracle.work.share import display

MICROS = 1_000_000


class Rendering:
    """Renders rows with the addresses of one network."""

    def __init__(self, network: Network) -> None:
        """`network` is the mined one."""
        self._network = network

    def _address(self, payee: Payee) -> str:
        return address_of(payee, self._network)

    def hash_rates(self, row: rows.HashRates) -> answers.HashRates:
        """Of whoever."""
        return answers.HashRates(ten_minutes=str(row.ten_minutes), hour=str(row.hour), day=str(row.day))

    def worker(self, row: rows.WorkerRow, rates: rows.HashRates | None) -> answers.Worker:
        """Without rates: nothing came within a day."""
        return answers.Worker(
            number=row.number,
            worker=row.name,
            payee=format_payee(row.payee),
            address=self._address(row.payee),
            shares=row.shares,
            work=str(row.work),
            first_share=_seconds(row.first_time),
            last_share=_seconds(row.last_time),
            hash_rates=self.hash_rates(rates or rows.HashRates()),
        )

    def payee(self, row: rows.PayeeRow) -> answers.PayeeSummary:
        """In a list."""
        return answers.PayeeSummary(
            number=row.number,
            payee=format_payee(row.payee),
            address=self._address(row.payee),
            workers=row.workers,
            shares=row.shares,
            work=str(row.work),
            first_share=_seconds(row.first_time),
            last_share=_seconds(row.last_time),
            weight=str(row.weight),
            claimed=str(row.claimed),
        )

    def payee_detail(self, row: rows.PayeeRow, rates: rows.HashRates, credit: rows.CreditRow) -> answers.PayeeDetail:
        """By itself."""
        return answers.PayeeDetail(
            **self.payee(row).model_dump(), hash_rates=self.hash_rates(rates), window=self.window(credit)
        )

    def window(self, row: rows.CreditRow) -> answers.Window:
        """A payee's."""
        return answers.Window(
            shares=row.shares, weight=str(row.weight), total=str(row.total), first_share=row.first_share
        )

    def bucket(self, row: rows.Bucket, seconds: int) -> answers.Bucket:
        """Of `seconds`."""
        return answers.Bucket(
            start=row.start, shares=row.shares, work=str(row.work), hash_rate=str(row.work // seconds)
        )

    def epoch(self, row: rows.EpochRow) -> answers.Epoch:
        """A closed one."""
        return answers.Epoch(
            epoch=row.epoch,
            first_share=row.first_share,
            closing_share=row.closing_share,
            t=str(row.t),
            leaves=row.leaves,
            total=str(row.total),
            root=_hex(row.root),
            tip=row.tip,
            tip_height=row.tip_height,
            time=row.time,
        )

    def leaf(self, payee: Payee, weight: int) -> answers.Leaf:
        """Of an epoch's tree."""
        return answers.Leaf(payee=format_payee(payee), address=self._address(payee), weight=str(weight))

    def epoch_weight(self, row: rows.WeightRow) -> answers.EpochWeight:
        """A payee's."""
        return answers.EpochWeight(epoch=row.epoch, weight=str(row.weight), total=str(row.total))

    def block(self, row: rows.BlockRow) -> answers.Block:
        """A found one."""
        return answers.Block(
            number=row.number,
            hash=display(row.hash),
            height=row.height,
            epoch=row.epoch,
            worker=row.worker_name,
            payee=format_payee(row.payee),
            address=self._address(row.payee),
            coinbase=display(row.txid),
            time=row.time // MICROS,
            state=row.state,
            depth=row.depth,
            detail=row.detail,
            state_time=_seconds(row.state_time),
        )

    def payout(self, row: rows.PayoutRow) -> answers.Payout:
        """Of the distributor."""
        return answers.Payout(
            payout=row.number,
            root=_hex(row.root),
            epoch=row.epoch,
            amount=str(row.amount),
            fee=str(row.fee),
            time=row.time,
            block=row.block,
            block_hash=_hex(row.block_hash),
            transaction=_hex(row.transaction_hash),
        )

    def part(self, row: rows.PartRow) -> answers.Part:
        """A payee's, of a payout."""
        return answers.Part(
            payout=row.payout,
            epoch=row.epoch,
            weight=str(row.weight),
            amount=str(row.part),
            claimed=row.is_claimed,
        )

    def claim(self, row: rows.ClaimRow) -> answers.Claim:
        """A payment."""
        return answers.Claim(
            payee=format_payee(row.payee),
            address=self._address(row.payee),
            recipient=_hex(row.recipient),
            payouts=list(row.payouts),
            amount=str(row.amount),
            block=row.block,
            log_index=row.log_index,
            block_hash=_hex(row.block_hash),
            transaction=_hex(row.transaction_hash),
        )


def _hex(data: bytes) -> str:
    return f"0x{data.hex()}"


def _seconds(micros: int | None) -> int | None:
    return None if micros is None else micros // MICROS
