"""Teacher pretraining, fine-tuning, distillation and quantization-aware training: what comes before a `.tbrt` file."""
