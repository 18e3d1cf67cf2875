FROM a
RUN <<-E
	hi
	E
USER x
