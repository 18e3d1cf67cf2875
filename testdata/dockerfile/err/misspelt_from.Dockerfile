FORM alpine
RUN x
