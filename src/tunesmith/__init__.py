"""tunesmith: fine-tunes pre-trained language models and proves that the result is better."""
