# syntax=docker/dockerfile:1.26-labs
FROM a
