# syntax=ghcr.io/somebody/nix:latest arg
FROM a
