"""Raw data in, prepared data out: catalogue, parsers, filters, splits and batches."""
