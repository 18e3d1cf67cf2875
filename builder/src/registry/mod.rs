//! Talking to registries: names, manifests and blobs.
