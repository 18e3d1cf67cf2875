FROM a
ENV A=1 B="two words" C=three\ words D='single "quoted"' E= F=a=b
ENV legacy the  rest "of the" line
ENV A=1 \
    B=2 \
    # comment
    C="continued \
value"
ENV K	tab
LABEL "key with spaces"="v" org.x.y=z
LABEL maintainer Someone <a@b>
LABEL multi="line \
  label" next=x
ARG A B=2 C="x y" D=
ARG E='$A'
ENV ESC=a\