"""Compile the contracts with py-solc-x, write their artifacts, and export the ABI files of the package.

`build/artifacts/NAME.json` holds abi, bytecode, deployedBytecode and the hash of the compiler's input;
`build/solc-input.json` is that input without the mocks, as block explorers take it for verification;
`pool_oracle/chain/abi/NAME.json` is what the package ships. `--check` writes nothing and fails where the shipped ABI
differs from the source.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOLC_VERSION = "0.8.30"
EVM_VERSION = "cancun"
OPTIMIZER_RUNS = 1_000_000
EXPORTED = ("NativeDistributor", "TokenDistributor", "FlyoverRoute", "IBridge")

# Warnings that say nothing about our code: OpenZeppelin's use of transient storage, cleared at the end of each call.
KNOWN_WARNINGS = ("Transient storage as defined by EIP-1153",)


def compiler_input() -> dict[str, Any]:
    """The standard-JSON input, with every source in it: ours and what they import."""
    pending = sorted((ROOT / "contracts").rglob("*.sol"))
    names = [str(path.relative_to(ROOT)) for path in pending]
    sources: dict[str, Any] = {}
    while names:
        name = names.pop()
        if name in sources:
            continue
        path = ROOT / name if name.startswith("contracts/") else ROOT / "node_modules" / name
        text = path.read_text(encoding="utf-8")
        sources[name] = {"content": text}
        names.extend(_imports(text, name))
    return {
        "language": "Solidity",
        "sources": dict(sorted(sources.items())),
        "settings": {
            "evmVersion": EVM_VERSION,
            "optimizer": {"enabled": True, "runs": OPTIMIZER_RUNS},
            "outputSelection": {"*": {"*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"]}},
        },
    }


def published_input(source: dict[str, Any]) -> dict[str, Any]:
    """The part of the input that explorers need: without mocks, so that a change of theirs does not change its hash.

    The deployed contracts come out the same, since each contract's metadata names only the sources that it uses.
    """
    sources = {name: text for name, text in source["sources"].items() if not name.startswith("contracts/mocks/")}
    return source | {"sources": sources}


def _imports(text: str, name: str) -> list[str]:
    """Paths that a source imports, relative ones resolved against its own."""
    found = []
    for line in text.splitlines():
        if line.startswith("import ") and '"' in line:
            target = line.split('"')[1]
            if target.startswith("."):
                target = os.path.normpath(Path(name).parent / target)
            found.append(target)
    return found


def compile_contracts() -> tuple[dict[str, Any], dict[str, Any]]:
    """Compile; returns (input, {contract name: its output}). Exits on an error or a new warning."""
    os.environ.setdefault("SOLCX_BINARY_PATH", str(ROOT / "scripts" / "solc"))
    import solcx

    source = compiler_input()
    output = solcx.compile_standard(source, solc_version=SOLC_VERSION, base_path=None, allow_paths=None)
    problems = [
        error["formattedMessage"]
        for error in output.get("errors", [])
        if not error["message"].startswith(KNOWN_WARNINGS)
    ]
    if problems:
        sys.exit("\n".join(problems))
    contracts = {
        name: contract
        for file, in_file in output["contracts"].items()
        if file.startswith("contracts/")
        for name, contract in in_file.items()
    }
    return source, contracts


def main() -> None:
    """Read the arguments and do the work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if the shipped ABI files differ; write nothing")
    check = parser.parse_args().check

    source, contracts = compile_contracts()
    input_text = json.dumps(published_input(source), sort_keys=True)
    input_hash = hashlib.sha256(input_text.encode()).hexdigest()
    abi_folder = ROOT / "pool_oracle" / "chain" / "abi"
    texts = {abi_folder / f"{n}.json": json.dumps(contracts[n]["abi"], indent=1) + "\n" for n in EXPORTED}
    if check:
        drifted = [p.name for p, text in texts.items() if not p.exists() or p.read_text() != text]
        if drifted:
            sys.exit(f"ABI files differ from the contracts: {', '.join(drifted)}; run 'make contracts' and commit them")
        return

    artifacts = ROOT / "build" / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    (ROOT / "build" / "solc-input.json").write_text(input_text)
    for name, contract in contracts.items():
        artifact = {
            "contractName": name,
            "compiler": {"version": SOLC_VERSION, "inputHash": input_hash},
            "abi": contract["abi"],
            "bytecode": "0x" + contract["evm"]["bytecode"]["object"],
            "deployedBytecode": "0x" + contract["evm"]["deployedBytecode"]["object"],
        }
        (artifacts / f"{name}.json").write_text(json.dumps(artifact))
    for path, text in texts.items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    print(f"{len(contracts)} contracts compiled, input {input_hash[:16]}")


if __name__ == "__main__":
    main()
