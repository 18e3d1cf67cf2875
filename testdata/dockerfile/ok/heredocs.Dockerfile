# syntax=docker/dockerfile:1
FROM a
RUN <<EOF
echo one
  EOF
	EOF
EOF
RUN <<-"TABS" bash -e
		echo $two
	TABS
RUN mkdir /x && cat <<'A' > /x/a && 3<<B cat <&3
RUN echo not an instruction
A
in b
B
COPY <<one.txt <<-'two.txt' --not-a-flag three.txt /dest/
$expanded
one.txt
	$raw
	two.txt
ADD --chown=1:2 <<E /f
E
RUN cat <<EOF \
  && true
body
EOF
RUN <<\X
escaped name
X
RUN echo $((1<<2)) "<<no" '<<no' a<<no <<<no << no <<-
RUN it's not split <<A
COPY ["<<EOF", "/x"]
RUN ["<<EOF"]
ENV X=<<EOF
ONBUILD RUN <<EOF
triggered
EOF
ONBUILD COPY <<A <<-B /
a
A
	b
	B
CMD <<EOF
