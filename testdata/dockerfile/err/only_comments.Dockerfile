# syntax=x

# nothing
\
