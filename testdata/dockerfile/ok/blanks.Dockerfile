FROM a
ENV A  b
RUN  --mount=x y
EXPOSE  -- 8090
 USER x 
LABEL a=b
