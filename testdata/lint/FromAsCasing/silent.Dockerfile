FROM scratch AS a
from scratch as b
From scratch aS c
FROM scratch
