#!/usr/bin/env python3
"""Checks every document of OCI layouts with the JSON schemas of the OCI image specification.

    check_schemas.py SCHEMAS LAYOUT…
"""

import json
import os
import sys

import jsonschema
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

SCHEMAS = {
    "application/vnd.oci.image.manifest.v1+json": "image-manifest-schema.json",
    "application/vnd.oci.image.index.v1+json": "image-index-schema.json",
    "application/vnd.oci.image.config.v1+json": "config-schema.json",
}


def main(schemas, layouts):
    def load(name):
        with open(os.path.join(schemas, name), encoding="utf-8") as file:
            return json.load(file)

    resources = []
    for name in os.listdir(schemas):
        resource = Resource.from_contents(load(name), default_specification=DRAFT4)
        resources += [(name, resource), (f"https://opencontainers.org/schema/{name}", resource)]
        resources += [(f"https://opencontainers.org/schema/image/{name}", resource)]
        resources += [(f"https://opencontainers.org/schema/image/index/{name}", resource)]
    registry = Registry().with_resources(resources)
    count = 0

    def check(document, name, what):
        nonlocal count
        schema = load(name)
        # References are to the files beside it.
        schema.pop("id", None)
        validator = jsonschema.Draft4Validator(schema, registry=registry)
        errors = [f"{what}: {error.message}" for error in validator.iter_errors(document)]
        assert not errors, "\n".join(errors)
        count += 1

    for layout in layouts:
        def blob(descriptor, layout=layout):
            algorithm, digest = descriptor["digest"].split(":")
            with open(os.path.join(layout, "blobs", algorithm, digest), encoding="utf-8") as file:
                return json.load(file)

        with open(os.path.join(layout, "oci-layout"), encoding="utf-8") as file:
            check(json.load(file), "image-layout-schema.json", layout)
        with open(os.path.join(layout, "index.json"), encoding="utf-8") as file:
            index = json.load(file)
        check(index, "image-index-schema.json", layout)
        left = list(index["manifests"])
        while left:
            descriptor = left.pop()
            document = blob(descriptor)
            assert document.get("mediaType", descriptor["mediaType"]) == descriptor["mediaType"], descriptor
            check(document, SCHEMAS[descriptor["mediaType"]], f"{layout} {descriptor['digest']}")
            left += document.get("manifests", [])
            left += [document["config"]] if "config" in document and "layers" in document else []
    print(count)


main(sys.argv[1], sys.argv[2:])
