FORM alpine
FROM alpine
RNU x
apt-get install
COPPY a b
INCLUDE x
ENTRYPONT ["x"]
{{ template }}
