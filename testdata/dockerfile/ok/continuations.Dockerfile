FROM a
RUN one \   
  two \

  # a comment inside
	# another \
  three\
four # no comment \
	five
RUN not continued \\
RUN back\\\
   run indented && \
   x
\
RUN after an escape alone
CO\
PY a\
b /c\
d
RUN last \
