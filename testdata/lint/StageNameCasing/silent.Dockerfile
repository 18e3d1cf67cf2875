FROM Debian
FROM scratch AS a-b_c.d
