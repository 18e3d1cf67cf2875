FROM scratch
COPY a \

  b \


  /c/
