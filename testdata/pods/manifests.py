#!/usr/bin/env python3
"""manifests.py DIRECTORY: each NAME.yaml is a Job whose pod is one of the kind NAME; prints what makes the kind, a line each.

What a kind is follows Kubernetes' words for it: who the process is, its capabilities, whether privileges may be gained, the
seccomp profile, the user namespace. Mounts must have volumes, and what is written must not go to the root file system.
"""
import sys
from pathlib import Path

import yaml


def describe(path):
    documents = list(yaml.safe_load_all(path.read_text()))
    assert len(documents) == 1, f"{path}: {len(documents)} documents"
    job = documents[0]
    assert (job["apiVersion"], job["kind"], job["metadata"]["name"]) == ("batch/v1", "Job", f"wharf-{path.stem}"), path
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and len(pod["containers"]) == 1, path
    container = pod["containers"][0]
    own = container["securityContext"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert volumes == set(mounts.values()), f"{path}: volumes and mounts differ"
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert environment["WHARF_ROOT"] in mounts and environment["DOCKER_CONFIG"] in mounts, path
    privileged = own.get("privileged", False)
    uid = own.get("runAsUser", 0)
    return {
        "kind": path.stem,
        "uid": uid,
        "capabilities": "all" if privileged else "none" if "ALL" in own.get("capabilities", {}).get("drop", []) else "default",
        "no_new_privs": not (privileged or own["allowPrivilegeEscalation"]),
        "seccomp": not privileged and own["seccompProfile"]["type"] == "RuntimeDefault",
        "userns": pod.get("hostUsers") is False,
    }


for file in sorted(Path(sys.argv[1]).glob("*.yaml"), key=lambda path: path.stem):
    print(*(f"{key}={value}" for key, value in describe(file).items()))
