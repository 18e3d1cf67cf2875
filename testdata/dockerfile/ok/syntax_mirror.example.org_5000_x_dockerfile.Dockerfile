# syntax=mirror.example.org:5000/x/dockerfile
FROM a
