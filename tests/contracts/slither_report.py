"""What slither says of the forge project in the working folder, as JSON.

Runs in the environment of the analysers, since it imports slither: the command line names neither the contracts that it
looked at nor, in its JSON, the functions that it could not read.
"""

from __future__ import annotations

import inspect
import json
import logging
import sys
from typing import Any

from slither import Slither
from slither.detectors import all_detectors
from slither.detectors.abstract_detector import AbstractDetector, DetectorClassification

GRAVE = (DetectorClassification.HIGH, DetectorClassification.MEDIUM)


class Complaints(logging.Handler):
    """Everything that slither warns of while it reads."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def place(element: dict[str, Any]) -> str:
    """Contract.function, or the name of what stands outside functions."""
    parent = element.get("type_specific_fields", {}).get("parent")
    return f"{parent['name']}.{element['name']}" if parent else str(element["name"])


def statements(elements: list[dict[str, Any]]) -> str:
    """The statements that a finding is about; of a re-entrance, those that write after the call."""
    nodes = [element for element in elements if element["type"] == "node"]
    writing = [n for n in nodes if n.get("additional_fields", {}).get("underlying_type") == "variables_written"]
    return "; ".join(sorted({node["name"] for node in writing or nodes}))


def main() -> None:
    """Compile, read, look."""
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    project = Slither(".", foundry_out_directory="build/forge/out", filter_paths=["node_modules"])
    for detector in vars(all_detectors).values():
        if inspect.isclass(detector) and issubclass(detector, AbstractDetector) and detector.IMPACT in GRAVE:
            project.register_detector(detector)
    findings = [finding for of_one in project.run_detectors() for finding in of_one]
    report = {
        "contracts": sorted(contract.name for contract in project.contracts),
        "complaints": complaints.texts,
        "findings": [
            {
                "check": finding["check"],
                "place": place(finding["elements"][0]),
                "statements": statements(finding["elements"]),
                "text": finding["description"],
            }
            for finding in findings
        ],
    }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
