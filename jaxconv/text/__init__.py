"""What the model is asked: one Jinja environment, one door to the tokenizer, and the place where the score is read.

    chat_environment -> prompt            templates, rendered as transformers renders them
    tokenizer_classes -> tokenizer_settings -> tokenizer    token ids, as transformers' classes give them
    special_tokens, pad_token -> prompt_fit    the prompt fitted to the tokenizer, or refused
    encoding                                   a pair as token ids, shortened to a length

The text of a prompt and its token ids are what `AutoTokenizer` and `apply_chat_template` give; `transformers_reading` asks
them where they are installed.
"""
