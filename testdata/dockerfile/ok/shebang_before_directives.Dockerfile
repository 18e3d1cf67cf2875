#!/usr/bin/env wharf
# syntax=docker/dockerfile:1
FROM a
