//! Exporters: what was built, as an image in the store, an archive, a directory, or in a registry.
