"""What is known of a model without torch: its shape, its parameters, its adapters."""
