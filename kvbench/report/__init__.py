"""Turn summaries into tables, words and charts, without the machine that measured."""
