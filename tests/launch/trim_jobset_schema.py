"""What may a JobSet contain? Keeps what a test of a manifest needs of the schema that JobSet's developers publish.

    git clone --depth 1 --branch v0.12.0 https://github.com/kubernetes-sigs/jobset
    python tests/launch/trim_jobset_schema.py jobset/config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml

Writes tests/launch/jobset_schema.json: v1alpha2 (Apache-2.0), without descriptions, and without the insides of what `LEFT_OUT`
names, which may then contain anything.
"""

import json
import sys
from pathlib import Path

import yaml

FILE = Path(__file__).with_name("jobset_schema.json")
LEFT_OUT = {"affinity", "ephemeralContainers", "initContainers", "lifecycle", "volumes", "volumeClaimPolicies", "status"}


def trimmed(schema: dict) -> dict:
    kept = {}
    for key, value in schema.items():
        if key == "properties":
            kept[key] = {name: {} if name in LEFT_OUT else trimmed(of) for name, of in value.items()}
        elif isinstance(value, dict):
            kept[key] = trimmed(value)
        elif key != "description" and not key.startswith("x-kubernetes-"):
            kept[key] = value
    return kept


def main(path: str) -> None:
    versions = yaml.safe_load(Path(path).read_text())["spec"]["versions"]
    schema = next(version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1alpha2")
    source = f"https://github.com/kubernetes-sigs/jobset, v0.12.0, {Path(path).name}, by {Path(__file__).name}"
    FILE.write_text(json.dumps({"$comment": source} | trimmed(schema), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
