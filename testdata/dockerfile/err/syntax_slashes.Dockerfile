#!/usr/bin/env other
// syntax = example/other:1 --flag
FROM a
