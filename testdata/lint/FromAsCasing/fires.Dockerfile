FROM scratch as upper
from scratch AS lower
FROM scratch As mixed
From scratch as neither
