"""Summaries become tables, words and charts. Nothing here needs the machine that measured."""
