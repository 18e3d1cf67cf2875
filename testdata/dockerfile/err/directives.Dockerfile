# escape=x
# syntax=a
# Syntax=b
FROM a
