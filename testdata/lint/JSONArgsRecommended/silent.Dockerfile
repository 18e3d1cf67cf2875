FROM debian
ENTRYPOINT ["echo", "hello"]
CMD []
HEALTHCHECK CMD true
RUN true
FROM debian
SHELL ["/bin/bash", "-c"]
ENTRYPOINT echo hello
CMD world
FROM powershell
CMD echo hello
