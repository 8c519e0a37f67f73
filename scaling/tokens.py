"""Numbers of tokens that mean something besides text."""

EOD = 0
"""ends every document, whatever the tokenizer; no text has it"""
