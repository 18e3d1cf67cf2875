FROM a
CMD echo hi
CMD ["a", "b"]
CMD []
ENTRYPOINT ["/x"]
ENTRYPOINT []
ENTRYPOINT exec top -b
CMD
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
