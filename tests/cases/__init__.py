"""Inputs as people have them, by kind. Every case is judged by the scores of all consumers or by its refusal.

| Inputs | Tests |
| --- | --- |
| an index beside a single file, tied heads and buffers in an index, shards of other names | `test_names_and_files.LAYOUTS` |
| names without `model.`, or with a composite's prefix | `test_names_and_files.LAYOUTS`, `readers.test_spellings` |
| padding and truncation that training stored | `test_tokenizer_files.TRAINING` |
| the pad token in one file or another | `test_tokenizer_files.PADS` |
| a tokenizer that appends tokens | `test_tokenizer_files.APPENDING` |
| templates over messages, with newlines and blocks at the end | `test_templates.OVER_MESSAGES`, `OVER_A_PAIR` |
| special tokens and functions by name | `test_templates.NAMED` |
| templates that leave query or document out, or only mention `messages` | `test_templates.WRONG`, `MENTIONED` |
| the prompt that sentence-transformers saved | `test_recorded_prompts.RECORDED` |
| an adapter beside the weights | `test_names_and_files.BESIDE` |
| tokens without a row in the embedding | `test_tokenizer_files.ROWLESS` |
| a byte order mark | `test_templates.MARKED` |
| tokenizer classes that transformers builds anew | `test_tokenizer_files.REBUILT`, `test_real_tokenizers` |
"""
