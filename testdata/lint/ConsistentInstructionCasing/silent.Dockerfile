from scratch
env a=b
label c=d
copy a /
user z
