INSERT INTO goods VALUES ('anchor', 120), ('bollard', 340), ('crane', 99000);
