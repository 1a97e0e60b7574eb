"""The container's file and the cluster's manifest: linted, and true to the service they start."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from crosscale.cli.serve import _parser
from tests.test_architecture import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
MANIFEST = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text()))
DEPLOYMENT, SERVICE = MANIFEST
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line]


def only(word: str) -> str:
    (found,) = (rest for name, rest in instructions() if name == word)
    return found


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("resource", MANIFEST, ids=lambda resource: resource["kind"])
def test_the_manifest_fits_kubernetes_schema(resource):
    kubernetes_validate.validate(resource, "1.31", strict=True)


def test_what_is_copied_is_there_and_not_ignored():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            copied |= set(shlex.split(rest)[:-1])
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("words", [json.loads(only("CMD")), CONTAINER["args"]], ids=["image", "cluster"])
def test_the_service_takes_the_options(words):
    assert words[0] == "serve"
    options = _parser().parse(words[1:])
    assert (options.run, options.host, options.port) == ("/model", "0.0.0.0", 8000)
    assert POD["terminationGracePeriodSeconds"] > options.answer_seconds


def test_nobody_is_root():
    user = only("USER")
    assert user.isdigit()
    assert int(user) > 0
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["runAsUser"] == int(user)
    rights = CONTAINER["securityContext"]
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["readOnlyRootFilesystem"] is True
    assert rights["capabilities"] == {"drop": ["ALL"]}


def test_probes_ask_what_the_service_answers():
    routes = set(re.findall(r'\("GET", "(/\w+)"', (ROOT / "crosscale" / "serve" / "app.py").read_text()))
    asked = {CONTAINER[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert asked == {"/readyz", "/healthz"} <= routes
    assert "8000/readyz" in only("HEALTHCHECK")


def test_limits_volumes_and_ports_agree():
    assert set(CONTAINER["resources"]["limits"]) == {"cpu", "memory"}
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}
    (port,) = CONTAINER["ports"]
    assert str(port["containerPort"]) == only("EXPOSE")
    assert SERVICE["spec"]["ports"][0]["targetPort"] == port["name"]
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert SERVICE["spec"]["selector"] == DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels
