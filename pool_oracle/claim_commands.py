"""`claim`, `link` and `relay`: the commands by which money reaches miners. Heavy libraries are imported inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pool_oracle.errors import InputError

if TYPE_CHECKING:
    from pool_oracle.chain.calls import Request
    from pool_oracle.chain.client import Chain
    from pool_oracle.chain.distributor import DistributorClient
    from pool_oracle.claims.claiming import Plan, Survey
    from pool_oracle.claims.reading import Asset
    from pool_oracle.claims.sending import Wallet
    from pool_oracle.networks import Network

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on standard output.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="Take node, distributor and network from the pool's file.")
]
Rpc = Annotated[str | None, typer.Option("--rpc", help="A node of the EVM chain.")]
DistributorAddress = Annotated[str | None, typer.Option("--distributor", help="The distributor's address.")]
NetworkName = Annotated[str | None, typer.Option("--network", help="The network of the address; any, if left out.")]
Pool = Annotated[str | None, typer.Option("--pool", help="Take proofs from the API of the pool at this address.")]
Bundle = Annotated[
    Path | None, typer.Option("--bundle", help="Make proofs from the bundles in this folder, without the pool.")
]
KeyFile = Annotated[Path | None, typer.Option("--key-file", help="Sign with the private key in this file (0x...).")]
Keystore = Annotated[Path | None, typer.Option("--keystore", help="Sign with the key of this keystore (version 3).")]
PasswordFile = Annotated[Path | None, typer.Option("--password-file", help="The file with the keystore's password.")]
Unsigned = Annotated[
    Path | None,
    typer.Option("--unsigned", help="Sign nothing; write transactions for another wallet into this new file."),
]
From = Annotated[
    str | None, typer.Option("--from", help="With --unsigned: the account that will sign; its nonces are written, too.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def add_claim_commands(app: typer.Typer) -> None:
    """Add them to the program."""
    app.command("claim")(claim)
    app.command("link")(link)
    app.command("relay")(relay)


def claim(
    payee: Annotated[str | None, typer.Argument(help="Your mining address; the key's account, if left out.")] = None,
    *,
    pool: Pool = None,
    bundle: Bundle = None,
    rpc: Rpc = None,
    distributor: DistributorAddress = None,
    config: ConfigFile = None,
    network: NetworkName = None,
    payout: Annotated[list[int] | None, typer.Option("--payout", help="Only this payout; may be repeated.")] = None,
    batch: Annotated[int, typer.Option(help="Payouts in one transaction, 256 at the most.")] = 256,
    key_file: KeyFile = None,
    keystore: Keystore = None,
    password_file: PasswordFile = None,
    unsigned: Unsigned = None,
    sender: From = None,
    force: Annotated[bool, typer.Option("--force", help="Also where the gas costs more than it brings.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Show what an address can claim over all payouts and what that costs; with a key or --unsigned, claim it.

    Anybody may claim for anybody: the money goes to the payee's recipient, whoever pays the gas.
    """
    from pool_oracle.claims.claiming import plan_claim, send_claims, survey_claims
    from pool_oracle.claims.proofs import open_source
    from pool_oracle.claims.showing import claim_json, plan_text, receipt_text, survey_text
    from pool_oracle.payout.payee import parse_payee
    from pool_oracle.terminal import progress

    client, chosen = connect(config, rpc, distributor, network)
    wallet = open_wallet(client.chain, key_file, keystore, password_file, unsigned, sender)
    address = wallet.address if wallet is not None else sender
    if payee is None and address is None:
        raise InputError("say whose parts are meant: give a mining address, or the key of an account that mines")
    who = parse_payee(payee or address or "", chosen)
    with open_source(pool, bundle, client.chain.chain_id, client.address_bytes, progress) as source:
        survey = survey_claims(client, source, who, progress, payout or None)
    tell(survey_text(survey), as_json)
    is_acting = wallet is not None or unsigned is not None
    plan = None
    if survey.claimable and (survey.recipient or is_acting):
        plan = plan_claim(client, survey, address, batch)
        tell(plan_text(plan, coin_of(client)), as_json)
    receipts = []
    if plan is not None and is_acting:
        require_worth(plan, force=force)
        if unsigned is not None:
            write_unsigned(unsigned, client.chain, [(b.call, b.gas) for b in plan.batches], sender, as_json)
        elif wallet is not None:
            ask(_question(survey, plan), yes=yes)
            receipts = send_claims(
                client, plan, wallet, lambda receipt: tell(receipt_text(receipt, survey.asset), as_json)
            )
            if not receipts:
                tell("somebody else has claimed all of it meanwhile: the money is at its recipient", as_json)
    if as_json:
        typer.echo(json.dumps(claim_json(survey, plan, receipts)))


def _question(survey: Survey, plan: Plan) -> str:
    return f"Claim {survey.asset.show(plan.amount)} for {survey.recipient}?"


def link(
    payee: Annotated[str, typer.Argument(help="Your mining address: bc1q..., 1... or 3...")],
    *,
    recipient: Annotated[str, typer.Option(help="The EVM account that is to get its money.")],
    signature: Annotated[str | None, typer.Option(help="The signature as your wallet shows it (base64).")] = None,
    signature_file: Annotated[
        Path | None, typer.Option(help="A file with the signature; - for standard input.")
    ] = None,
    deadline: Annotated[
        int | None, typer.Option(help="Unix time until which it can be used: part of the text.")
    ] = None,
    rpc: Rpc = None,
    distributor: DistributorAddress = None,
    config: ConfigFile = None,
    network: NetworkName = None,
    key_file: KeyFile = None,
    keystore: Keystore = None,
    password_file: PasswordFile = None,
    unsigned: Unsigned = None,
    sender: From = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Link a Bitcoin key to an EVM account by a signed message (BIP-137).

    Without a signature it prints the text to sign. With one it checks it, says what it will do, and with a key or
    --unsigned submits it. Any account may submit it and pay the gas.
    """
    from pool_oracle.claims.linking import LINK_DAYS, how_to_sign, link_call, prepare_link, read_signature
    from pool_oracle.claims.sending import estimate_gas, gas_price
    from pool_oracle.payout.payee import format_payee, parse_payee

    client, chosen = connect(config, rpc, distributor, network)
    wallet = open_wallet(client.chain, key_file, keystore, password_file, unsigned, sender)
    who = parse_payee(payee, chosen)
    account = check_address(recipient, "--recipient")
    text = _read_signature_text(signature, signature_file)
    if text is not None and deadline is None:
        raise InputError("--deadline is missing: give the one of the text that was signed")
    until = client.chain.time() + LINK_DAYS * 86_400 if deadline is None else deadline
    wish = prepare_link(client, who, account, until)
    value: dict[str, Any] = {
        "payee": format_payee(who),
        "recipient": wish.recipient,
        "present": wish.present,
        "deadline": wish.deadline,
        "message": wish.message,
        "transaction": None,
    }
    if text is None:
        again = f"--recipient {wish.recipient} --deadline {until} --signature-file FILE"
        tell("\n".join([*how_to_sign(wish, chosen), "", f"Then: pool-oracle link {payee} {again} ..."]), as_json)
    else:
        call = link_call(client, wish, read_signature(wish, text))
        gas = estimate_gas(client.chain, call, wallet.address if wallet is not None else sender)
        cost = coin_of(client).show(gas * gas_price(client.chain))
        tell(f"the signature is right: it was made by the key of {payee}", as_json)
        tell(f"its money goes to {wish.recipient} from then on; now it goes to {wish.present or 'nobody'}", as_json)
        tell(f"gas: {gas}, {cost}", as_json)
        if unsigned is not None:
            write_unsigned(unsigned, client.chain, [(call, gas)], sender, as_json)
        elif wallet is not None:
            ask(f"Link it to {wish.recipient}?", yes=yes)
            value["transaction"] = wallet.send(call)["transactionHash"].to_0x_hex()
            tell(f"linked: {value['transaction']}", as_json)
    if as_json:
        typer.echo(json.dumps(value))


def _read_signature_text(signature: str | None, file: Path | None) -> str | None:
    """The signature from wherever it is. Raises InputError."""
    if signature is not None and file is not None:
        raise InputError("--signature or --signature-file, not both")
    if file is None:
        return signature
    try:
        return typer.get_text_stream("stdin").read(1 << 16) if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}") from None


def relay(
    *,
    max_gas_price: Annotated[str, typer.Option(help="Wait while gas costs more, in gwei: 0.06")],
    ledger: Annotated[Path | None, typer.Option(help="The folder of the ledger; needed to send.")] = None,
    min_amount: Annotated[int, typer.Option(help="Leave parts that are smaller, in wei.")] = 1,
    payees: Annotated[
        Path | None, typer.Option(help="Only for the addresses in this file, one a line; else for everybody.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Payees in one transaction, 100 at the most.")] = 50,
    every: Annotated[int, typer.Option(help="Do it again after so many seconds, until it is ended; 0: once.")] = 0,
    pool: Pool = None,
    bundle: Bundle = None,
    rpc: Rpc = None,
    distributor: DistributorAddress = None,
    config: ConfigFile = None,
    network: NetworkName = None,
    key_file: KeyFile = None,
    keystore: Keystore = None,
    password_file: PasswordFile = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Claim for many payees in batches, and pay their gas.

    Without a key it shows what it would do. A run that was killed is gone on with by the next one with the same ledger;
    nobody is claimed for twice. Payees without a recipient are left, and named.
    """
    import time

    from pool_oracle.claims.relay_run import relay_once
    from pool_oracle.claims.relaying import RelayPolicy
    from pool_oracle.claims.sending import open_signer
    from pool_oracle.errors import ChainError, SourceError
    from pool_oracle.units import Wei

    client, chosen = connect(config, rpc, distributor, network)
    signer = open_signer(key_file, keystore, password_file)
    if signer is not None and ledger is None:
        raise InputError("--ledger FOLDER is needed with a key: it keeps what was sent")
    chosen_payees = None if payees is None else read_payees(payees, chosen)
    policy = RelayPolicy(_wei_of_gwei(max_gas_price), Wei(min_amount), batch, chosen_payees)
    if signer is not None:
        ask(f"Pay gas as {signer.address} up to {max_gas_price} gwei?", yes=yes)
    while True:
        try:
            value = relay_once(client, pool, bundle, policy, signer, ledger, lambda text: tell(text, as_json))
            if as_json:
                typer.echo(json.dumps(value))
        except (ChainError, SourceError) as error:
            if not every:
                raise
            tell(f"tried again in {every} s: {error}", as_json)
        if not every:
            return
        time.sleep(every)


def _wei_of_gwei(text: str) -> int:
    """Exact. Raises InputError."""
    whole, _, part = text.partition(".")
    is_number = text.isascii() and whole.isdigit() and (part.isdigit() or not part)
    if not is_number or len(part) > 9 or len(whole) > 9:
        raise InputError(f"--max-gas-price must be gwei with up to nine decimals, such as 0.06, not {text!r}")
    return int(whole) * 10**9 + int(part.ljust(9, "0") or "0")


def read_payees(path: Path, network: Network | None) -> frozenset[Any]:
    """The payees of a file, one address or payee a line; what follows a # is a remark. Raises InputError."""
    from pool_oracle.payout.payee import parse_payee

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    found = set()
    for number, line in enumerate(lines, 1):
        if text := line.partition("#")[0].strip():
            try:
                found.add(parse_payee(text, network))
            except InputError as error:
                raise InputError(f"{path}, line {number}: {error}") from None
    if not found:
        raise InputError(f"{path} names no payee")
    return frozenset(found)


# What the commands share


def connect(
    config: Path | None, rpc: str | None, distributor: str | None, network: str | None
) -> tuple[DistributorClient, Network | None]:
    """The distributor that the options name, and whose addresses are meant. Raises InputError, ChainError."""
    import sys

    from pool_oracle.claims.reading import open_distributor
    from pool_oracle.logs import configure_logs
    from pool_oracle.networks import network_named

    configure_logs(sys.stderr)
    chosen = None if network is None else network_named(network)
    if config is not None:
        from pool_oracle.config import load_config

        settings = load_config(config)
        rpc, distributor = rpc or settings.rpc_urls[0], distributor or settings.chain.distributor
        chosen = chosen or settings.network
    if not rpc or not distributor:
        raise InputError("--rpc URL and --distributor 0x... are needed, or --config FILE that has both")
    return open_distributor(rpc, check_address(distributor, "--distributor")), chosen


def check_address(text: str, option: str) -> str:
    """An EVM address as it was given. Raises InputError naming the option."""
    from pool_oracle.networks import network_named
    from pool_oracle.payout.payee import parse_address

    if not text.startswith("0x"):
        raise InputError(f"{option} must be an EVM address, 0x and 40 hex digits, not {text!r}")
    try:
        parse_address(text, network_named("main"))  # 0x... is the same on every network
    except InputError as error:
        raise InputError(f"{option}: {error}") from None
    return text


def open_wallet(
    chain: Chain,
    key_file: Path | None,
    keystore: Path | None,
    password_file: Path | None,
    unsigned: Path | None,
    sender: str | None,
) -> Wallet | None:
    """The account that signs here; None where nothing is signed here. Raises InputError, SetupError."""
    from pool_oracle.claims.sending import Wallet, open_signer

    if sender is not None:
        check_address(sender, "--from")
        if unsigned is None:
            raise InputError(
                "--from names the account that will sign what --unsigned writes; give --unsigned FILE, too"
            )
    if unsigned is not None:
        if key_file is not None or keystore is not None:
            raise InputError("--unsigned signs nothing: leave out --key-file and --keystore, or --unsigned")
        if unsigned.exists():
            raise InputError(f"{unsigned} exists already; --unsigned takes the name of a new file")
    signer = open_signer(key_file, keystore, password_file)
    return None if signer is None else Wallet(chain, signer)


def coin_of(client: DistributorClient) -> Asset:
    """The coin that gas is paid in."""
    from pool_oracle.claims.reading import coin_of_chain

    return coin_of_chain(client.chain.chain_id)


def require_worth(plan: Plan, *, force: bool) -> None:
    """Refuse to spend more than comes in. Raises InputError."""
    if not force and not plan.is_worth_it:
        raise InputError(
            f"the gas costs {plan.cost} wei and brings {plan.amount} wei; wait for more payouts or a lower gas price, "
            "or --force it"
        )


def write_unsigned(
    path: Path, chain: Chain, calls: list[tuple[Request, int]], sender: str | None, as_json: bool
) -> None:
    """Transactions into a file, for a wallet elsewhere. Raises InputError."""
    from pool_oracle.claims.sending import unsigned
    from pool_oracle.terminal import write_new

    write_new(path, unsigned(chain, calls, sender))
    tell(f"to be signed: {len(calls)}, in {path}; the signer adds the fees and keeps the order", as_json)


def ask(question: str, *, yes: bool) -> None:
    """Go on only with a yes."""
    from pool_oracle.terminal import confirm

    confirm(question, yes=yes)


def tell(text: str, as_json: bool) -> None:
    """For people: on standard output, or on standard error where that is for JSON."""
    typer.echo(text, err=as_json)
