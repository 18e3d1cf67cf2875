FROM debian
FROM scratch AS a-b_c.d
