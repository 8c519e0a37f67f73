"""Ids of tokens with a special meaning."""

EOD = 0
"""ends every document, whatever the tokenizer; no text has it"""
