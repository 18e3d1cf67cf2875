CREATE TABLE goods (name text PRIMARY KEY, price integer NOT NULL CHECK (price > 0));
