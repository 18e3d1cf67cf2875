//! Layers made and unpacked again.
